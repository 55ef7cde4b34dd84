"""Decode, crop and classify a picture in the simplest way, as all compared servers do."""

import io
import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def pixels(body: bytes) -> Pixels:
    """Decode a file and return its central crop (224, 224, 3) uint8."""
    image = Image.open(io.BytesIO(body)).convert("RGB")
    shorter = min(image.size)
    image = image.resize((image.width * 256 // shorter, image.height * 256 // shorter))
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


class Network:
    """The model file of MODEL, on `threads` threads of ONNX Runtime; 0 is its default."""

    def __init__(self, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(os.environ["MODEL"], options, ["CPUExecutionProvider"])
        self._classes = json.loads(self._session.get_modelmeta().custom_metadata_map["alexnet"])["classes"]

    def __call__(self, batch: list[Pixels]) -> list[dict[str, Any]]:
        """Return the five best labels of each image."""
        (rows,) = self._session.run(["probabilities"], {"images": np.stack(batch)})
        return [
            {
                "predictions": [
                    {"label": self._classes[i], "probability": float(row[i])} for i in np.argsort(-row)[:5]
                ]
            }
            for row in rows
        ]

"""From the bytes of one image to the answer about it."""

import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from alexnet_client.schemas import EmbedResponse, Explanation, Prediction, PredictResponse, Timing
from contract.preprocess import Pixels
from service.inference.engine import Decoded, Engine, Inferred
from service.inference.occlusion import covered, occlusion_map
from service.models.serving import ServingModel

DEFAULT_TOP_K: Final = 5  # labels of an answer


@dataclass(frozen=True)
class ImageResult:
    """What was found out about one image, and `common`, what every answer says of it."""

    decoded: Decoded
    inferred: Inferred
    common: dict[str, Any]


async def look(
    engine: Engine, served: ServingModel, data: bytes, outputs: tuple[str, ...], crops: int = 1
) -> ImageResult:
    """Raises ImageError, SchedulerClosed, or what the session raised."""
    began = time.perf_counter()
    decoded, inferred = await engine.look(served, data, outputs, crops)
    waited = decoded.waited + inferred.waited
    engine.count_image(waited)
    timing = Timing(
        decode=_ms(decoded.took),
        queue=_ms(waited),
        inference=_ms(inferred.took),
        total=_ms(time.perf_counter() - began),
    )
    return ImageResult(
        decoded, inferred, {"model": served.name, "image": decoded.info, "timing_ms": timing}
    )


async def classify(
    engine: Engine, served: ServingModel, data: bytes, top_k: int, crops: int
) -> PredictResponse:
    """Of several crops the mean of their softmax counts (the paper, section 4.1)."""
    looked = await look(engine, served, data, ("probabilities",), crops)
    rows = [row["probabilities"] for row in looked.inferred.rows]
    probabilities = rows[0] if crops == 1 else np.mean(rows, axis=0)
    return PredictResponse(
        predictions=best(probabilities, served.model.manifest.classes, top_k), **looked.common
    )


async def embed(engine: Engine, served: ServingModel, data: bytes, normalize: bool) -> EmbedResponse:
    """fc7 of the central crop; with `normalize` of length 1 (a vector of zeros stays one)."""
    looked = await look(engine, served, data, ("fc7",))
    vector = looked.inferred.rows[0]["fc7"]
    if normalize:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return EmbedResponse(embedding=vector.tolist(), **looked.common)


async def explain(
    engine: Engine, served: ServingModel, data: bytes, label: int | None
) -> tuple[Explanation, Pixels]:
    """What `label`, or else the best one, rests on; and the crop that was looked at."""
    looked = await look(engine, served, data, ("probabilities",))
    (crop,), manifest = looked.decoded.crops, served.model.manifest
    (whole,) = looked.inferred.rows
    index = int(whole["probabilities"].argmax()) if label is None else label
    parts = await engine.infer(served, covered(crop, manifest.mean), ("probabilities",))
    probability = float(whole["probabilities"][index])
    found = occlusion_map(probability, [float(row["probabilities"][index]) for row in parts.rows])
    timing: Timing = looked.common["timing_ms"]
    timing.inference = _ms(looked.inferred.took + parts.took)
    timing.queue = _ms(looked.decoded.waited + looked.inferred.waited + parts.waited)
    timing.total = round(timing.decode + timing.queue + timing.inference, 3)
    answer = Explanation(
        label=manifest.classes[index],
        index=index,
        probability=probability,
        map=[[round(value, 4) for value in row] for row in found.tolist()],
        **looked.common,
    )
    return answer, crop


def best(probabilities: NDArray[np.float32], classes: tuple[str, ...], top_k: int) -> list[Prediction]:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        Prediction(label=classes[i], index=i, probability=float(probabilities[i])) for i in order.tolist()
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

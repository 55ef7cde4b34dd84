"""Classify, embed or explain the bytes of one image."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from alexnet_client.schemas import EmbedResponse, Explanation, Prediction, PredictResponse, Timing
from contract.preprocess import Pixels
from service.inference.engine import DecodedCrops, Engine, InferenceResult
from service.inference.occlusion import occluded_copies, occlusion_map
from service.models.serving import ServingModel

DEFAULT_TOP_K: Final = 5  # predictions of an answer


@dataclass(frozen=True)
class ImageResult:
    """The inferred outputs of one image; `common` has the fields that every kind of answer shares."""

    decoded: DecodedCrops
    inferred: InferenceResult
    common: dict[str, Any]


async def infer_image(
    engine: Engine, served: ServingModel, data: bytes, outputs: tuple[str, ...], crops: int = 1
) -> ImageResult:
    """Decode an image and infer its crops.

    Raises ImageError, Overloaded, SchedulerClosed, or what the session raised.
    """
    began = time.perf_counter()
    decoded, inferred = await engine.infer_image(served, data, outputs, crops)
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
    """Classify an image; of several crops by the mean of their softmax (the paper, section 4.1)."""
    result = await infer_image(engine, served, data, ("probabilities",), crops)
    rows = result.inferred.outputs["probabilities"]
    probabilities = rows[0] if crops == 1 else rows.mean(axis=0)
    return PredictResponse(
        predictions=best(probabilities, served.model.manifest.classes, top_k), **result.common
    )


async def embed(engine: Engine, served: ServingModel, data: bytes, normalize: bool) -> EmbedResponse:
    """Return fc7 of the central crop; `normalize` scales it to length 1, except a vector of zeros."""
    result = await infer_image(engine, served, data, ("fc7",))
    (vector,) = result.inferred.outputs["fc7"]
    if normalize:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return EmbedResponse(embedding=vector.tolist(), **result.common)


async def explain(
    engine: Engine, served: ServingModel, data: bytes, label: int | None
) -> tuple[Explanation, Pixels]:
    """Return the occlusion map of `label` (None: the best one), and the crop that it is about."""
    result = await infer_image(engine, served, data, ("probabilities",))
    (crop,) = await asyncio.to_thread(np.asarray, result.decoded.crops)  # from a GPU, if it decodes
    manifest = served.model.manifest
    (whole,) = result.inferred.outputs["probabilities"]
    index = int(whole.argmax()) if label is None else label
    parts = await engine.infer(served, occluded_copies(crop, manifest.mean), ("probabilities",))
    probability = float(whole[index])
    heat = occlusion_map(probability, parts.outputs["probabilities"][:, index])
    timing: Timing = result.common["timing_ms"]
    timing.inference = _ms(result.inferred.took + parts.took)
    timing.queue = _ms(result.decoded.waited + result.inferred.waited + parts.waited)
    timing.total = round(timing.decode + timing.queue + timing.inference, 3)
    answer = Explanation(
        label=manifest.classes[index],
        index=index,
        probability=probability,
        map=[[round(value, 4) for value in row] for row in heat.tolist()],
        **result.common,
    )
    return answer, crop


def best(probabilities: NDArray[np.float32], classes: tuple[str, ...], top_k: int) -> list[Prediction]:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        Prediction(label=classes[i], index=i, probability=float(probabilities[i])) for i in order.tolist()
    ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

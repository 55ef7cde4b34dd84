"""Classify, embed or explain the bytes of one image."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from alexnet_client.schemas import EmbedResponse, Explanation, Prediction, PredictResponse, Timing
from contract.preprocess import Pixels
from contract.trust import UNFAMILIARITY
from service.errors import InvalidRequest
from service.inference.engine import DecodedCrops, Engine, InferenceResult
from service.inference.occlusion import occluded_copies, occlusion_map
from service.models.serving import ServingModel

DEFAULT_TOP_K: Final = 5  # predictions of an answer
CENTRAL_CROP: Final = 4  # of contract.preprocess.ten_crops, not mirrored


@dataclass(frozen=True)
class ClassifyOptions:
    """What `classify` computes for each image: the labels, of so many crops.

    An image above `unknown_above` is unknown; it is None if the model has no unfamiliarity. The prediction
    set has the labels whose 1 - probability is at most `quantile`; None: no set.
    """

    top_k: int
    crops: int
    unknown_above: float | None
    quantile: float | None


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


def check_options(
    served: ServingModel,
    top_k: int | None,
    crops: int,
    coverage: float | None = None,
    unknown_above: float | None = None,
) -> ClassifyOptions:
    """Check the parameters of a request against the model's file. Raises InvalidRequest."""
    manifest, name = served.model.manifest, served.name.name
    classes, trust = len(manifest.classes), manifest.trust
    if top_k is not None and top_k > classes:
        raise InvalidRequest(f"top_k is {top_k}; this model has {classes} classes")
    familiarity = None if trust is None else trust.familiarity
    if familiarity is not None and unknown_above is None:
        unknown_above = familiarity.unknown_above
    elif familiarity is None and unknown_above is not None:
        raise InvalidRequest(
            f"unknown_above is {unknown_above:g}; the file of model {name} has no unfamiliarity, "
            "leave it out"
        )
    quantile = None
    if coverage is not None:
        if trust is None:
            raise InvalidRequest(
                f"coverage is {coverage:g}; the file of model {name} has no section trust, leave it out"
            )
        if crops != 1:
            raise InvalidRequest(
                f"coverage is {coverage:g}; it was fitted on one crop, leave out crops={crops:d}"
            )
        try:
            quantile = trust.quantile(coverage)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
    return ClassifyOptions(top_k or min(DEFAULT_TOP_K, classes), crops, unknown_above, quantile)


async def classify(
    engine: Engine, served: ServingModel, data: bytes, options: ClassifyOptions
) -> PredictResponse:
    """Classify an image; of several crops by the mean of their softmax (the paper, section 4.1)."""
    limit, crops = options.unknown_above, options.crops
    result = await infer_image(engine, served, data, served.model.answer_outputs, crops)
    rows = result.inferred.outputs["probabilities"]
    probabilities = rows[0] if crops == 1 else rows.mean(axis=0)
    order = np.argsort(-probabilities, kind="stable")
    classes = served.model.manifest.classes
    labels = unfamiliarity = known = None
    if options.quantile is not None:
        # In float64, as the quantiles were fitted. It ascends in this order.
        size = np.count_nonzero(1 - probabilities.astype(np.float64) <= options.quantile)
        labels = [classes[i] for i in order[:size].tolist()]
    if limit is not None:
        # It was fitted on central crops. The graph of a file from elsewhere may leave 0 to 1.
        value = result.inferred.outputs[UNFAMILIARITY][0 if crops == 1 else CENTRAL_CROP]
        unfamiliarity = min(max(float(value), 0.0), 1.0)
        known = unfamiliarity <= limit
        engine.count_unfamiliarity(unfamiliarity, known)
    return PredictResponse(
        predictions=[
            Prediction(label=classes[i], index=i, probability=float(probabilities[i]))
            for i in order[: options.top_k].tolist()
        ],
        known=known,
        unfamiliarity=unfamiliarity,
        set=labels,
        **result.common,
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


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

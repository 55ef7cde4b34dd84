"""Schemas of the service's responses, shared by the server, the clients and the OpenAPI description."""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

T = TypeVar("T")


class Prediction(BaseModel):
    label: str = Field(examples=["sunflower"])
    index: int = Field(ge=0, description="index of the label in the model's classes", examples=[13])
    probability: float = Field(
        ge=0,
        le=1,
        description="softmax probability over all classes; calibrated if the model's file has `trust`: of "
        "the predictions with a probability of 0.9, nine in ten are right, on images of the classes",
        examples=[0.916],
    )


class ModelName(BaseModel):
    name: str = Field(examples=["flowers17"])
    version: int = Field(ge=1, examples=[1])
    sha256: str = Field(description="SHA-256 of the model file", examples=["2ce1d7b1cbd91008" * 4])


class ImageInfo(BaseModel):
    width: int = Field(description="pixels, after the EXIF rotation", examples=[526])
    height: int = Field(description="pixels, after the EXIF rotation", examples=[500])
    format: str = Field(examples=["JPEG"])
    profile_ignored: str | None = Field(
        default=None,
        description="why the file's ICC profile was ignored and its colours were taken as sRGB",
        examples=["its tag 'D2B0' is a chain of elements, which is not read"],
        exclude_if=lambda reason: reason is None,
    )
    preprocessing: str | None = Field(
        default=None,
        description="id of the preprocessing that gave the pixels, if it is not that of the model's file: "
        "the image was decoded on the GPU (DECODE=gpu), and its pixels differ slightly",
        examples=["bilinear-box-256-224-nvjpeg"],
        exclude_if=lambda name: name is None,
    )


class Timing(BaseModel):
    """Durations in milliseconds.

    `queue` is the wait for a worker and for the batch, `inference` the run of the whole batch. `total`
    starts when the body has been read.
    """

    decode: float = Field(examples=[2.716])
    queue: float = Field(examples=[0.133])
    inference: float = Field(examples=[3.974])
    total: float = Field(examples=[7.099])


class FileResult(BaseModel):
    """One of several results."""

    file: str | None = Field(
        default=None,
        description="name of the file, in results of a form with several files",
        examples=["photo.jpg"],
        exclude_if=lambda name: name is None,
    )


class Problem(FileResult):
    """A problem document (RFC 9457). Programs may rely on `code`; `detail` is text for people."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the JPEG file is corrupt or truncated: broken data stream"])
    code: str = Field(examples=["invalid_image"])


class PredictResponse(FileResult):
    predictions: list[Prediction] = Field(description="sorted by probability, the highest first")
    known: bool | None = Field(
        default=None,
        description="whether the image resembles the photographs of the classes: `unfamiliarity` is at "
        "most `unknown_above`, by default the limit of the model's file. Missing if the file has none",
        examples=[True],
        exclude_if=lambda known: known is None,
    )
    unfamiliarity: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of photographs of the classes that are more familiar to the network than this "
        "image: 0.99 is unusual. Of the central crop, also with ten crops. Missing with `known`",
        examples=[0.31],
        exclude_if=lambda unfamiliarity: unfamiliarity is None,
    )
    set: list[str] | None = Field(
        default=None,
        description="prediction set: the labels that are probable enough for `coverage`, the most probable "
        "first; empty if none is. Missing without `coverage`",
        examples=[["sunflower", "dandelion"]],
        exclude_if=lambda labels: labels is None,
    )
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


class EmbedResponse(FileResult):
    embedding: list[float] = Field(
        description="fc7 after its activation: 4096 values for a full-width model",
        examples=[[0.0, 1.25, 0.5]],
    )
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


class Explanation(BaseModel):
    label: str = Field(examples=["sunflower"])
    index: int = Field(ge=0, examples=[13])
    probability: float = Field(ge=0, le=1, examples=[0.916])
    map: list[list[float]] = Field(
        description="occlusion map: rows of the central crop from the top, scaled to 0..1; 1 matters most",
        examples=[[[0.0, 0.25], [1.0, 0.5]]],
    )
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


Answer = PredictResponse | EmbedResponse | Explanation


class Results(BaseModel, Generic[T]):
    """The results of several images, in their order: a response or a problem for each."""

    results: list[T | Problem]


class ModelInfo(ModelName):
    classes: list[str] = Field(examples=[["bluebell", "buttercup"]])
    metrics: list[dict[str, Any]] = Field(
        description="accuracies as fractions of 1",
        examples=[
            [{"data": "flowers17 (validation)", "images": 255, "crops": 1, "top1": 0.84, "top5": 0.97}]
        ],
    )
    card: str | None = Field(description="model card in Markdown", examples=["# flowers17"])
    trust: dict[str, Any] | None = Field(
        description="section `trust` of the manifest: temperature, calibration error, prediction sets and "
        "unfamiliarity, as measured at export; null for files without it",
        examples=[{"photographs": 255, "method": "halves", "temperature": 1.21}],
    )


class ModelState(BaseModel):
    name: str = Field(examples=["flowers17"])
    version: int | None = Field(description="null if the file names none", examples=[1])
    state: Literal["READY", "UNAVAILABLE"]
    error: str | None = Field(
        description="why the model, or the current state of its file, is not served",
        examples=["mine.onnx is a JPEG picture and no model; to ask about it: scripts/predict FILE"],
    )


class Health(BaseModel):
    status: str = Field(examples=["ok"])
    model: ModelName = Field(description="the default model; without one, the first by name")
    provider: str = Field(description="the ONNX Runtime provider in use", examples=["CPUExecutionProvider"])
    models: list[ModelState]
    reload_error: str | None = Field(
        description="the first error among the model files, null if all are served",
        examples=["mine.onnx cannot be read: Permission denied"],
    )


class Alive(BaseModel):
    status: str = Field(examples=["ok"])

"""The answers, as the OpenAPI description shows them."""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

Each = TypeVar("Each")


class Prediction(BaseModel):
    label: str = Field(examples=["sunflower"])
    index: int = Field(ge=0, description="place of the label among the model's classes", examples=[13])
    probability: float = Field(ge=0, le=1, description="of the full softmax", examples=[0.916])


class ModelName(BaseModel):
    name: str = Field(examples=["flowers17"])
    version: int = Field(ge=1, examples=[1])
    sha256: str = Field(description="of the model file", examples=["2ce1d7b1cbd91008" * 4])


class ImageInfo(BaseModel):
    width: int = Field(description="pixels, after the EXIF rotation", examples=[526])
    height: int = Field(description="pixels, after the EXIF rotation", examples=[500])
    format: str = Field(examples=["JPEG"])
    profile_ignored: str | None = Field(
        default=None,
        description="why the file's ICC profile is not used and its colours are taken as sRGB",
        examples=["its tag 'D2B0' is a chain of elements, which is not read"],
        exclude_if=lambda reason: reason is None,
    )


class Timing(BaseModel):
    """Milliseconds. `queue` is spent waiting for a decoding thread and for the batch, `inference` is
    the run of the whole batch; `total` starts when the body is there.
    """

    decode: float = Field(examples=[2.716])
    queue: float = Field(examples=[0.133])
    inference: float = Field(examples=[3.974])
    total: float = Field(examples=[7.099])


class FileResult(BaseModel):
    """One of several answers."""

    file: str | None = Field(
        default=None,
        description="name of the file, where a form with several files says it",
        examples=["photo.jpg"],
        exclude_if=lambda name: name is None,
    )


class Problem(FileResult):
    """RFC 9457; `code` is stable, `detail` is for people."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the JPEG file is corrupt or truncated: broken data stream"])
    code: str = Field(examples=["invalid_image"])


class PredictResponse(FileResult):
    predictions: list[Prediction] = Field(description="sorted, the most probable first")
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


class EmbedResponse(FileResult):
    embedding: list[float] = Field(
        description="fc7 after its activation: 4096 values at full width", examples=[[0.0, 1.25, 0.5]]
    )
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


class Explanation(BaseModel):
    label: str = Field(examples=["sunflower"])
    index: int = Field(ge=0, examples=[13])
    probability: float = Field(ge=0, le=1, examples=[0.916])
    map: list[list[float]] = Field(
        description="rows of the central crop from the top, 0 to 1: what the answer rests on most is 1",
        examples=[[[0.0, 0.25], [1.0, 0.5]]],
    )
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


Answer = PredictResponse | EmbedResponse | Explanation


class Results(BaseModel, Generic[Each]):
    """Of several images, in their order: of each its answer, or what was wrong with it."""

    results: list[Each | Problem]


class ModelInfo(ModelName):
    classes: list[str] = Field(examples=[["bluebell", "buttercup"]])
    metrics: list[dict[str, Any]] = Field(
        description="as fractions of 1",
        examples=[
            [{"data": "flowers17 (validation)", "images": 255, "crops": 1, "top1": 0.84, "top5": 0.97}]
        ],
    )
    card: str | None = Field(description="the model card, Markdown", examples=["# flowers17"])


class ModelState(BaseModel):
    name: str = Field(examples=["flowers17"])
    version: int | None = Field(description="null if its file does not say", examples=[1])
    state: Literal["READY", "UNAVAILABLE"]
    error: str | None = Field(
        description="why it is not served, or not as its file is now",
        examples=["mine.onnx is a JPEG picture and no model; to ask about it: scripts/predict FILE"],
    )


class Health(BaseModel):
    status: str = Field(examples=["ok"])
    model: ModelName = Field(description="the default model; the first by name where none is")
    provider: str = Field(description="the ONNX Runtime provider in use", examples=["CPUExecutionProvider"])
    models: list[ModelState]
    reload_error: str | None = Field(
        description="why a model file is not what is served: the first of them",
        examples=["mine.onnx cannot be read: Permission denied"],
    )


class Alive(BaseModel):
    status: str = Field(examples=["ok"])

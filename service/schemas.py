"""The answers, as the OpenAPI description shows them."""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

Each = TypeVar("Each")


class Prediction(BaseModel):
    label: str = Field(examples=["sunflower"])
    index: int = Field(ge=0, description="place of the label among the model's classes")
    probability: float = Field(ge=0, le=1, description="of the full softmax")


class ModelName(BaseModel):
    name: str = Field(examples=["flowers17"])
    version: int = Field(ge=1)
    sha256: str = Field(description="of the model file")


class ImageInfo(BaseModel):
    width: int = Field(description="pixels, after the EXIF rotation")
    height: int = Field(description="pixels, after the EXIF rotation")
    format: str = Field(examples=["JPEG"])


class Timing(BaseModel):
    """Milliseconds. `queue` is spent waiting for a decoding thread and for the batch, `inference` is
    the run of the whole batch; `total` starts when the body is there.
    """

    decode: float
    queue: float
    inference: float
    total: float


class Problem(BaseModel):
    """RFC 9457; `code` is stable, `detail` is for people."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the JPEG file is corrupt or truncated: broken data stream"])
    code: str = Field(examples=["invalid_image"])


class PredictAnswer(BaseModel):
    predictions: list[Prediction] = Field(description="sorted, the most probable first")
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


class EmbedAnswer(BaseModel):
    embedding: list[float] = Field(description="fc7 after its activation: 4096 values at full width")
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


class Explanation(BaseModel):
    label: str = Field(examples=["sunflower"])
    index: int = Field(ge=0)
    probability: float = Field(ge=0, le=1)
    map: list[list[float]] = Field(
        description="rows of the central crop from the top, 0 to 1: what the answer rests on most is 1"
    )
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


Answer = PredictAnswer | EmbedAnswer | Explanation


class Results(BaseModel, Generic[Each]):
    """Of several images, in their order: of each its answer, or what was wrong with it."""

    results: list[Each | Problem]


class ModelInfo(ModelName):
    classes: list[str]
    metrics: list[dict[str, Any]]
    card: str | None = Field(description="the model card, Markdown")


class ModelState(BaseModel):
    name: str = Field(examples=["flowers17"])
    version: int | None = Field(description="null if its file does not say")
    state: Literal["READY", "UNAVAILABLE"]
    error: str | None = Field(description="why it is not served, or not as its file is now")


class Health(BaseModel):
    status: str = Field(examples=["ok"])
    model: ModelName = Field(description="the first of the models that are served")
    provider: str = Field(description="the ONNX Runtime provider in use", examples=["CPUExecutionProvider"])
    models: list[ModelState]
    reload_error: str | None = Field(
        description="why a model file is not what is served: the first of them"
    )


class Alive(BaseModel):
    status: str = Field(examples=["ok"])

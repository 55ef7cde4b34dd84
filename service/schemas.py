"""The answers, as the OpenAPI description shows them."""

from typing import Any

from pydantic import BaseModel, Field


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


class PredictAnswer(BaseModel):
    predictions: list[Prediction] = Field(description="sorted, the most probable first")
    model: ModelName
    image: ImageInfo
    timing_ms: Timing


class ModelInfo(ModelName):
    classes: list[str]
    metrics: list[dict[str, Any]]
    card: str | None = Field(description="the model card, Markdown")


class Health(BaseModel):
    status: str = Field(examples=["ok"])
    model: ModelName
    provider: str = Field(description="the ONNX Runtime provider in use", examples=["CPUExecutionProvider"])
    reload_error: str | None = Field(description="why a newer model file is not the one that is served")


class Alive(BaseModel):
    status: str = Field(examples=["ok"])


class Problem(BaseModel):
    """RFC 9457; `code` is stable, `detail` is for people."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    code: str

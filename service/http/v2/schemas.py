"""Schemas of the Open Inference Protocol's bodies, for validation and for the OpenAPI description."""

from typing import Any, Final, Literal

from pydantic import BaseModel, Field

PARAMETERS: Final = {"type": "object", "description": "values are strings, numbers or booleans"}
_NUMBERS: Final = {
    "type": "array",
    "description": "flat, or nested as the shape; for a BYTES input, base64 strings",
    "items": {},
}


class ServerMetadata(BaseModel):
    name: str = Field(examples=["alexnet"])
    version: str = Field(examples=["0.1.0"])
    extensions: list[str] = Field(examples=[["binary_tensor_data", "classification", "model_repository"]])


class TensorMetadata(BaseModel):
    name: str = Field(examples=["images"])
    datatype: str = Field(examples=["UINT8"])
    shape: list[int] = Field(examples=[[-1, 224, 224, 3]], description="-1 is the number of images")


class ModelMetadata(BaseModel):
    name: str = Field(examples=["flowers17"])
    versions: list[str] = Field(examples=[["1"]])
    platform: str = Field(examples=["onnxruntime_onnx"])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Live(BaseModel):
    live: bool = Field(examples=[True])


class Ready(BaseModel):
    ready: bool = Field(examples=[True])


class ModelReady(Ready):
    name: str = Field(examples=["flowers17"])


class IndexEntry(BaseModel):
    name: str = Field(examples=["flowers17"])
    version: str = Field(examples=["1"], description='"" if the file names none')
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = Field(
        examples=[""], description="why the model, or the current state of its file, is not served"
    )


class ProtocolError(BaseModel):
    error: str = Field(examples=["inputs[0].datatype is 'FP32'; images takes UINT8"])


PREPROCESSING: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "preprocessing": {
            "type": "string",
            "description": "only if an image was decoded on the GPU (DECODE=gpu): for each image the id of "
            "its preprocessing, empty if that is the model's, separated by commas",
        }
    },
}
INFER_REQUEST: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "description": "is repeated in the response"},
        "parameters": PARAMETERS,
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"enum": ["images", "encoded"]},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                    "datatype": {"enum": ["UINT8", "BYTES"]},
                    "parameters": PARAMETERS,
                    "data": _NUMBERS,
                },
            },
        },
        "outputs": {
            "type": "array",
            "description": "the requested outputs; default: all",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": PARAMETERS},
            },
        },
    },
    "example": {
        "inputs": [
            {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": ["/9j/4AAQSkZJRgABAQ=="]}
        ],
        "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
    },
}
INFER_RESPONSE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": PREPROCESSING,
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "datatype": {"enum": ["FP32", "BYTES"]},
                    "parameters": PARAMETERS,
                    "data": {"type": "array", "items": {"type": ["number", "string"]}},
                },
            },
        },
    },
    "example": {
        "model_name": "flowers17",
        "model_version": "1",
        "outputs": [
            {
                "name": "probabilities",
                "datatype": "BYTES",
                "shape": [1, 2],
                "data": ["0.91:12:sunflower", "0.05:4:daisy"],
            }
        ],
    },
}
BINARY: Final[dict[str, Any]] = {
    "schema": {
        "type": "string",
        "format": "binary",
        "description": "the JSON, Inference-Header-Content-Length bytes long, then the data of the tensors",
    }
}


def _command(properties: dict[str, Any]) -> dict[str, Any]:
    """Describe the optional body of a repository request."""
    schema = {"type": "object", "properties": properties, "example": {}}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}


INDEX_COMMAND: Final = _command(
    {"ready": {"type": "boolean", "description": "true: only models that are served"}}
)
MODEL_COMMAND: Final = _command({"parameters": PARAMETERS})

"""What a request for an answer says beside its body, as one pydantic model that reads and documents it.

FastAPI would read the same from declared parameters, one by one: 0.15 of the 0.26 core-ms that a request
spent in its and Starlette's layers.
"""

from collections.abc import Collection
from enum import IntEnum
from typing import Any, Final, Literal, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import InvalidRequest

TIMEOUT: Final = "x-request-timeout-ms"


class Crops(IntEnum):
    ONE = 1
    TEN = 10


class Query(BaseModel):
    """Which model, and in how many ms it is to be answered."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(
        None, description="its name; by default DEFAULT_MODEL, the only one, or flowers17"
    )
    version: int | None = Field(None, ge=1, description="the newest by default")
    timeout_ms: float | None = Field(None, ge=1, description="less than the server's", alias=TIMEOUT)


class PredictQuery(Query):
    top_k: int | None = Field(None, ge=1, description="labels in an answer; 5 by default")
    crops: Crops = Field(Crops.ONE, description="10: the paper's, averaged")


class EmbedQuery(Query):
    normalize: bool = Field(False, description="to length 1, so that a product is a cosine")
    format: Literal["json", "raw"] = Field("json", description="raw: float32, little-endian")


class ExplainQuery(Query):
    label: str | None = Field(None, min_length=1, description="the best one by default")
    format: Literal["png", "json"] = Field("png", description="png: drawn over the crop")


Asked = TypeVar("Asked", bound=Query)


def read_query(request: Request, kind: type[Asked]) -> Asked:
    """Of a parameter that is given twice the last counts. Raises RequestValidationError, and InvalidRequest
    for one that there is not.
    """
    given: dict[str, str] = dict(request.query_params)
    if TIMEOUT in given:
        _refuse_unknown_to(request, kind)
    timeout = request.headers.get(TIMEOUT)
    if timeout is not None:
        given[TIMEOUT] = timeout
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        _refuse_unknown_to(request, kind)
        raise RequestValidationError(
            [each | {"loc": (_place(each["loc"][0]), *each["loc"])} for each in error.errors()]
        ) from None


def _refuse_unknown_to(request: Request, kind: type[Query]) -> None:
    names = [name for name in kind.model_fields if name != "timeout_ms"]
    refuse_unknown(request, names, f"; {TIMEOUT} is a header")


def refuse_unknown(request: Request, names: Collection[str], more: str = "") -> None:
    """Raises InvalidRequest where the query has other parameters than `names`, such as a misspelt one."""
    unknown = [name for name in request.query_params if name not in names]
    if unknown:
        said = ", ".join(repr(name[:40]) for name in unknown[:5])
        raise InvalidRequest(f"{request.url.path} has no parameter {said}; it has {', '.join(names)}{more}")


def documented_query(kind: type[Query]) -> list[dict[str, Any]]:
    """The fields as OpenAPI's `parameters`."""
    schema = kind.model_json_schema()
    found = []
    for name, says in schema["properties"].items():
        if "$ref" in says:
            says |= schema["$defs"][says.pop("$ref").rpartition("/")[2]]
        where = {"name": name, "in": _place(name), "required": False}
        found.append(where | {"description": says.pop("description"), "schema": says})
    return found


def _place(name: object) -> str:
    return "header" if name == TIMEOUT else "query"

"""Define every setting of the service; docs, `.env.example` and compose are generated from it.

A setting is an environment variable: the field's name in capitals. They are read once, in `__main__`, and
passed down. After a change run `scripts/check --fix`. The order is that of the documentation; `GROUPS` in
scripts/settings.py names the first setting of each group.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from service.parsers import parse_host, parse_networks, parse_origins, parse_workers, require_linux

MAX_DRAIN_S: Final = 86_400  # Python's waits overflow after 292 years, and the server would never stop


class SettingsError(ValueError):
    """Report a setting that cannot be used, in one sentence with its name, value and remedy."""


class Settings(BaseModel):
    """Hold the settings of one process; invalid values raise SettingsError in `from_environ`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1",
        description="Address or host name to listen on, without port. 0.0.0.0 for all IPv4 addresses, as "
        "in a container; :: for IPv6 as well.",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="TCP port. 0 picks a free one and prints it."
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="File with one SHA-256 (hex) of an API key per line. Everything but the page and the "
        "health checks then requires `Authorization: Bearer KEY`. Re-read on SIGHUP. Unset: no keys.",
    )
    admin_keys_file: Path | None = Field(
        default=None,
        description="The same for keys that may also load and unload models. They are valid everywhere "
        "else too.",
    )
    cors_origins: str = Field(
        default="",
        description="Comma-separated origins whose pages may call the service from a browser, such as "
        "https://example.org (no path). * allows all.",
    )
    allowed_hosts: str = Field(
        default="",
        description="Comma-separated host names accepted in the Host header, without ports; * accepts all. "
        "Others get 400, which prevents DNS rebinding; addresses are always accepted. Unset: all, but on a "
        "loopback HOST only localhost, HOST and names without a dot.",
    )
    trusted_proxies: str = Field(
        default="",
        description="Comma-separated addresses or networks of proxies whose X-Forwarded-For is used as the "
        "client address in the log. Unset: none.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="text: warnings and errors on stderr. json: one object per line on stdout, also for "
        "every request except health checks answered 200.",
    )

    models: Path = Field(
        default=Path(__file__).parents[1] / "models",
        description="Folder of the models to serve: NAME.onnx, or NAME/VERSION/model.onnx for several "
        "versions of a model.",
    )
    model: Path | None = Field(
        default=None, description="A single model file to serve. MODELS and DEFAULT_MODEL are then ignored."
    )
    default_model: str = Field(
        default="",
        description="Name of the model for requests that name none. It stays the default for as long as it "
        "is served. Unset: the only model, else flowers17, else such requests get 422.",
    )
    watch_model: bool = Field(
        default=False,
        description="1: load model files that are new or replaced and switch to them between batches, as "
        "SIGHUP does. A file that fails to load changes nothing and is reported in /health.",
    )

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="auto, cpu or cuda. cuda refuses to start without a working GPU; auto falls back to "
        "the CPU and, if there is a GPU, logs why.",
    )
    tf32: bool = Field(
        default=False,
        description="1: the GPU multiplies float32 with 10-bit mantissas (TF32), which is faster. 0: "
        "results match the CPU's. fp16 files always use tensor cores.",
    )
    gpu_memory_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of GPU memory for the weights and activations of each model; CUDA and cuDNN use "
        "some more. 0: no limit.",
    )

    workers: int = Field(
        default=1,
        description="Processes sharing the port, each with its own models and limits. auto: half the "
        "number of cores as far as memory allows, and at least one per GPU. With more than one, models are "
        "loaded and unloaded by SIGHUP or WATCH_MODEL only.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads per worker for decoding, and for inference. 0: the cores available to the "
        "process, divided among the workers.",
    )
    pin_cores: bool = Field(
        default=True,
        description="1: each decoding thread stays on one core if there is a core for each (Linux only). "
        "0: the kernel schedules them, which lowers latency where other programs share the machine.",
    )
    decode_processes: int = Field(
        default=0,
        ge=0,
        description="Processes per worker for decoding (Linux only), each limited in memory and restarted "
        "when an image crashes it. One per thread if images come from untrusted clients. 0: decode in "
        "threads.",
    )

    decode: Literal["cpu", "gpu"] = Field(
        default="cpu",
        description="gpu: nvJPEG decodes baseline JPEGs on the GPU (extra gpu-decode). Its pixels differ "
        "slightly, and responses say so. Other files are decoded in threads; not with DECODE_PROCESSES.",
    )

    max_batch: int = Field(
        default=32, ge=1, description="Maximum images per batch. More helps GPUs and costs memory."
    )
    max_wait_ms: float = Field(
        default=0.0,
        ge=0,
        le=60_000,
        description="Milliseconds to wait for a full batch. 0: run a batch as soon as a thread is idle. "
        "Raise it only if a benchmark gains from it; on an H200, 3 did not.",
    )
    max_queue: int = Field(
        default=256,
        ge=1,
        description="Maximum images in flight, counted once their body has arrived. Each crop, and each "
        "occlusion of /explain, counts as one. Beyond it: 429.",
    )
    max_queue_per_key: int = Field(
        default=0,
        ge=0,
        description="Maximum images in flight per API key. Set it if clients are unrelated. 0: MAX_QUEUE.",
    )

    max_body_bytes: int = Field(
        default=20_000_000,
        ge=1000,
        description="Bytes of one request body: the largest photograph you expect.",
    )
    max_queue_bytes: int = Field(
        default=500_000_000,
        ge=1000,
        validate_default=True,
        description="Bytes of all request bodies in memory, counted as they arrive; at least "
        "MAX_BODY_BYTES. Beyond it: 429. Responses not yet read by their clients may take a quarter of it "
        "in addition.",
    )
    max_pixels: int = Field(
        default=67_000_000,
        ge=1000,
        description="Pixels of one image: the largest photograph you expect. All images being decoded "
        "share 6 bytes for each. A JPEG may have all of these pixels, most other formats three quarters.",
    )
    decode_timeout_ms: float = Field(
        default=10_000.0,
        ge=0,
        description="Milliseconds to decode one image; then 422. A thread keeps decoding afterwards; only "
        "a process (DECODE_PROCESSES) is killed. 0: no limit.",
    )
    body_timeout_s: float = Field(
        default=20.0,
        ge=0.01,
        description="Seconds to receive a request body. Extended while at least 16 KiB/s arrive on average "
        "without a pause of that length.",
    )
    request_timeout_s: float = Field(
        default=30.0,
        ge=0.01,
        description="Seconds from the arrival of a body to its response; then 504, and no inference is run "
        "for it.",
    )

    max_connections: int = Field(
        default=1000,
        ge=1,
        description="Maximum open connections, about 10 KB each. Beyond it a new connection replaces the "
        "one that has waited longest for a request; if all have one, it gets 503.",
    )
    max_header_bytes: int = Field(
        default=65_536,
        ge=1000,
        description="Bytes of a request line and its headers (at most 100, each counted with 32 more), and "
        "of its trailers. Beyond it: 431.",
    )
    header_timeout_s: float = Field(
        default=10.0,
        ge=0.01,
        description="Seconds from the first byte of a request to the end of its headers, and to the first "
        "byte on a new connection.",
    )
    keep_alive_timeout_s: float = Field(
        default=5.0,
        ge=0.01,
        description="Seconds that an idle connection stays open after a response. Raise it if clients "
        "pause between requests.",
    )
    write_timeout_s: float = Field(
        default=30.0,
        ge=0.01,
        description="Seconds for a client to read its response, or at least 16 KiB per second of it; then "
        "the connection is closed.",
    )

    drain_delay_s: float = Field(
        default=0.0,
        ge=0,
        le=MAX_DRAIN_S,
        description="Seconds after SIGTERM in which connections are still accepted while /health/ready "
        "returns 503. Behind a load balancer: slightly more than it takes to notice.",
    )
    drain_timeout_s: int = Field(
        default=20,
        ge=1,
        le=MAX_DRAIN_S,
        description="Seconds for requests in flight to finish after DRAIN_DELAY_S. Keep the sum of both "
        "below the container's stop grace period.",
    )

    @field_validator("host", "trusted_proxies", "cors_origins")
    @classmethod
    def _check_text(cls, value: str, info: ValidationInfo) -> str:
        parsers = {"host": parse_host, "trusted_proxies": parse_networks, "cors_origins": parse_origins}
        parsers[info.field_name or ""](value)
        return value

    @field_validator("decode")
    @classmethod
    def _check_decode(cls, value: str, info: ValidationInfo) -> str:
        if value == "gpu" and info.data.get("decode_processes"):
            raise ValueError("is 'gpu', which decodes in no process: use DECODE_PROCESSES=0")
        if value == "gpu" and info.data.get("device") == "cpu":
            raise ValueError("is 'gpu', but DEVICE is cpu: use DEVICE=cuda, or DECODE=cpu")
        return value

    @field_validator("max_queue_bytes")
    @classmethod
    def _check_body_fits(cls, value: int, info: ValidationInfo) -> int:
        if value < (body := info.data.get("max_body_bytes", 0)):
            raise ValueError(f"is {value}; it must be at least MAX_BODY_BYTES, {body}")
        return value

    _parse_workers = field_validator("workers", mode="before")(parse_workers)
    _check_platform = field_validator("decode_processes")(require_linux)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the variables; empty ones count as unset. Raises SettingsError."""
        values = {name: text for name in cls.model_fields if (text := environ.get(name.upper()))}
        for name, text in values.items():  # pydantic would take yes, on, true and more
            if cls.model_fields[name].annotation is bool and text not in {"0", "1"}:
                raise SettingsError(f"{name.upper()} is {text!r}; it must be 0 or 1")
            if cls.model_fields[name].annotation is int and "." in text:  # pydantic would take 80.0
                raise SettingsError(f"{name.upper()} is {text!r}; it must be a whole number")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            raise SettingsError(f"{name.upper()} {_explain(first, cls.model_fields[name])}") from None


def _explain(error: ErrorDetails, field: FieldInfo) -> str:
    """Say what the value is and what it must be."""
    text = error["input"]
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] in {"greater_than_equal", "less_than_equal"}:
        limits = {k: getattr(m, k) for m in field.metadata for k in ("ge", "le") if hasattr(m, k)}
        upper = f"to {limits['le']}" if "le" in limits else "or more"
        return f"is {text}; it must be {limits['ge']} {upper}"
    if error["type"] == "literal_error":
        *others, last = get_args(field.annotation)
        return f"is {text!r}; use {', '.join(others)} or {last}"
    return f"is {text!r}; it must be {'a whole number' if field.annotation is int else 'a number'}"

"""Every limit of the service: its environment variable (the field's name in capitals), unit, default
and how to choose it. Read once, in `__main__`, and handed down.
"""

import ipaddress
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from service.http.access.clients import networks
from service.http.access.origins import read_origins

MAX_DRAIN_S: Final = 86_400  # Python's waits overflow after 292 years, and the stop would never come


class SettingsError(ValueError):
    """A variable with a value that cannot be used; the message names it."""


def _of(default: Any, meaning: str, low: float = 0, high: float = float("inf")) -> Any:
    return field(default=default, metadata={"help": meaning, "low": low, "high": high})


_CHOICES: Final = {
    "device": ("auto", "cpu", "cuda"),
    "cudnn_search": ("heuristic", "exhaustive", "default"),
    "log_format": ("text", "json"),
}


@dataclass(frozen=True)
class Settings:
    host: str = _of(
        "127.0.0.1",
        "address or name to listen on, without port; 0.0.0.0 for all of IPv4, as in a container, :: for "
        "those of IPv6 too",
    )
    port: int = _of(8000, "TCP port; 0 takes a free one and prints it", 0, 65535)
    models: Path = _of(
        Path(__file__).parents[1] / "models",
        "folder of the models that are served: NAME.onnx, and NAME/VERSION/model.onnx for versions side by "
        "side",
    )
    model: Path | None = _of(None, "one model file, to serve it alone; MODELS is not looked at then")
    default_model: str = _of(
        "",
        "name of the model that answers where a request names none. Unset: the only one, else flowers17, "
        "else such requests get 422; the one at the start stays it while it is served. Not looked at with "
        "MODEL",
    )
    watch_model: int = _of(
        0,
        "1: when a model file is new or replaced, it is loaded beside the old one and takes over between "
        "batches, as on SIGHUP; a bad file changes nothing and is named in /health",
        0,
        1,
    )
    device: str = _of(
        "auto",
        "auto, cpu or cuda; cuda refuses to start without a GPU that works, auto falls back to the "
        "CPU and, where there is a GPU, says why",
    )
    cudnn_search: str = _of(
        "heuristic",
        "how cuDNN chooses algorithms on a GPU: heuristic, exhaustive (tries them all, longer to start) or "
        "default (one for everything, mostly slow)",
    )
    cudnn_max_workspace: int = _of(
        1, "1: those algorithms may take as much GPU memory as they like; 0: little, so fewer can", 0, 1
    )
    tf32: int = _of(
        0,
        "1: a GPU rounds the factors in float32 networks to 10 bits, which is faster; 0: it answers as the "
        "CPU does",
        0,
        1,
    )
    gpu_memory_bytes: int = _of(
        0,
        "bytes of GPU memory for each model's weights and activations; 0: no limit. CUDA and cuDNN take "
        "some beside it",
    )
    api_keys_file: Path | None = _of(
        None,
        "file with one SHA-256 (hex) of an API key per line; then everything but the page and health needs "
        "`Authorization: Bearer KEY`. Read again on SIGHUP. Unset: no keys",
    )
    admin_keys_file: Path | None = _of(
        None, "the same for those who may load and unload models; their keys open everything else too"
    )
    cors_origins: str = _of(
        "",
        "origins whose pages may ask from a browser, such as https://example.org, with commas, without a "
        "path; * for all",
    )
    allowed_hosts: str = _of(
        "",
        "host names that are answered, with commas, without ports; * for all. Others get 400, because a "
        "page from elsewhere may have its name point here (DNS rebinding); addresses are always answered. "
        "Unset: all, but where HOST is the loopback localhost, HOST and names without a dot",
    )
    trusted_proxies: str = _of(
        "",
        "addresses or networks of proxies, with commas, whose X-Forwarded-For says for the log who the "
        "client is. Unset: none",
    )
    log_format: str = _of(
        "text",
        "text: warnings and errors on stderr, for people; json: those and every request on stdout but "
        "health that is 200, an object a line",
    )
    max_batch: int = _of(
        32, "images that one run of the network takes at most; larger helps GPUs, costs memory", 1
    )
    max_wait_ms: float = _of(
        0.0,
        "ms to wait for a batch to fill when the network is idle, beside 25 at most for images that are "
        "being decoded; 0 unless a benchmark of yours gains",
        0,
        60_000,
    )
    max_queue: int = _of(
        256,
        "images admitted at once, crops and occlusions counted, from when their body is there; more are "
        "answered 429",
        1,
    )
    max_queue_per_key: int = _of(
        0, "images of them that one API key may have; 0: all. Set it where clients do not know each other"
    )
    max_body_bytes: int = _of(
        20_000_000, "bytes of one request's body; the largest photograph you expect", 1000
    )
    max_queue_bytes: int = _of(
        500_000_000,
        "bytes of all bodies in memory at once, as they come; more are answered 429. MAX_BODY_BYTES must "
        "fit. Answers that wait to be read take a quarter of it besides",
        1000,
    )
    max_pixels: int = _of(
        67_000_000,
        "pixels of one image, by its header; the largest photograph you expect. Images that are decoded at "
        "once take 6 bytes for each of them together: a JPEG may have them all, other formats fewer, most "
        "three quarters of them",
        1000,
    )
    decode_timeout_ms: float = _of(
        10_000.0,
        "ms that decoding one image may take; then 422. 0: no limit. Only a process can be ended: in a "
        "thread, decoding goes on",
    )
    decode_processes: int = _of(
        0,
        "processes for decoding, on Linux alone, each limited in memory and replaced when an image breaks "
        "it; 0: in threads. As many as there are cores, where strangers send images; each of WORKERS has "
        "its own",
    )
    max_connections: int = _of(
        1000,
        "connections at once, each some 10 KB; past it a new one takes the place of the one that waited "
        "longest for a request, and is answered 503 where all have one",
        1,
    )
    max_header_bytes: int = _of(
        65_536,
        "bytes of a request's line and headers, 100 of them at most and each with 32 more, and of its "
        "trailers",
        1000,
    )
    header_timeout_s: float = _of(
        10.0,
        "s from a request's first byte to the end of its headers, and for a new connection's first",
        0.01,
    )
    keep_alive_timeout_s: float = _of(
        5.0,
        "s that a connection stays open after an answer; more where clients pause between requests",
        0.01,
    )
    write_timeout_s: float = _of(
        30.0,
        "s in which a client has to read its answer, or 16 KiB of it in each of them; then it is cut off",
        0.01,
    )
    body_timeout_s: float = _of(
        20.0,
        "s for a request's body to arrive; it may take longer while 16 KiB come in each second on average "
        "and no pause is as long",
        0.01,
    )
    request_timeout_s: float = _of(
        30.0,
        "s from a body's arrival to its answer; then 504, and no inference is spent on it",
        0.01,
    )
    drain_delay_s: float = _of(
        0.0,
        "s after SIGTERM in which connections are still taken while /health/ready says 503; behind a "
        "balancer, a little more than it needs to see that",
        0,
        MAX_DRAIN_S,
    )
    drain_timeout_s: int = _of(
        20,
        "s that requests under way get after that; both together below the container's stop grace period",
        1,
        MAX_DRAIN_S,
    )
    threads: int = _of(
        0,
        "threads each for decoding and for the network, in each worker; 0: the cores that this process may "
        "use, shared among the workers",
        0,
        1024,
    )
    workers: int = _of(
        1,
        "processes on one port, each with models and limits of its own; one for each GPU, more where one "
        "cannot feed it",
        1,
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Empty variables count as unset. Raises SettingsError."""
        values: dict[str, Any] = {}
        for entry in fields(cls):
            name, text = entry.name.upper(), environ.get(entry.name.upper(), "")
            if text:
                values[entry.name] = _parse(name, text, entry.default, entry.metadata)
        for key, allowed in _CHOICES.items():
            if values.get(key, allowed[0]) not in allowed:
                choices = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
                raise SettingsError(f"{key.upper()} is {values[key]!r}; use {choices}")
        settings = cls(**values)
        if not _is_host(settings.host):
            raise SettingsError(
                f"HOST is {settings.host!r}; it must be an address or a name alone, such as 127.0.0.1 or "
                "::1, without scheme, brackets or port, which is PORT"
            )
        if settings.max_queue_bytes < settings.max_body_bytes:
            raise SettingsError(
                f"MAX_QUEUE_BYTES is {settings.max_queue_bytes}; it must be at least MAX_BODY_BYTES, "
                f"{settings.max_body_bytes}"
            )
        try:
            networks(settings.trusted_proxies)
        except ValueError as error:
            raise SettingsError(
                f"TRUSTED_PROXIES is {settings.trusted_proxies!r}; it must be addresses or networks such "
                f"as 10.0.0.0/8, with commas: {error}"
            ) from None
        if settings.decode_processes and sys.platform != "linux":  # limits by /proc and prctl
            raise SettingsError(
                f"DECODE_PROCESSES is {settings.decode_processes}; only Linux has them: use 0"
            )
        try:
            read_origins(settings.cors_origins)
        except ValueError as error:
            raise SettingsError(f"CORS_ORIGINS {error}") from None
        return settings


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return not set(text) & set(" /:[]@")
    return True


def _parse(name: str, text: str, default: Any, limits: Mapping[str, Any]) -> Any:
    if not isinstance(default, int | float):
        return text if isinstance(default, str) else Path(text)
    kind = type(default)
    try:
        value = kind(text)
    except ValueError:
        whole = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{name} is {text!r}; it must be {whole}") from None
    if not limits["low"] <= value <= limits["high"]:
        low, high = limits["low"], limits["high"]
        bounds = f"{low} or more" if high == float("inf") else f"{low} to {high}"
        raise SettingsError(f"{name} is {text}; it must be {bounds}")
    return value

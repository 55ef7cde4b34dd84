"""Choose the decoder by the settings: threads, processes, or the GPU."""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

import onnxruntime as ort

from service.errors import ModelError
from service.imaging.decoder import Decoder, ThreadDecoder
from service.imaging.gpu_decoder import GpuDecoder, NoGpuDecoding, NvImageCodec
from service.imaging.process_decoder import ProcessDecoder
from service.models.cuda import PROVIDER, Cudart, NoGpu, open_library
from service.models.cuda_session import OWNER
from service.observability.logs import log
from service.settings import Settings, SettingsError

_PROVIDERS: Final = [
    (PROVIDER, {"device_id": "0", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"})
]


def open_decoder(
    settings: Settings, provider: str, threads: int, load: Callable[[str], Any] = import_module
) -> Decoder:
    """Open the decoder of DECODE and DECODE_PROCESSES, for models that run on `provider`.

    Raises SettingsError, and ModelError if the GPU does not decode. With DEVICE=auto and models on the CPU,
    images are decoded there too, and a warning says so. `load` imports a module.
    """
    if settings.decode == "gpu":
        if provider == PROVIDER:
            return _open_gpu_decoder(settings, threads, load)
        log.warning("DECODE=gpu: images are decoded on the CPU, because the models run on it (DEVICE=auto)")
    if settings.decode_processes:  # each can be killed when an image takes too long, and crash alone
        return ProcessDecoder(
            settings.decode_processes, settings.max_pixels, settings.decode_timeout_ms / 1000
        )
    return ThreadDecoder(settings.max_pixels)


def _open_gpu_decoder(settings: Settings, threads: int, load: Callable[[str], Any]) -> GpuDecoder:
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # else it prints lines about each damaged image
    try:
        module = load("nvidia.nvimgcodec")
    except ImportError:
        raise SettingsError(
            "DECODE is gpu, but nvidia-nvimgcodec-cu13 is not installed: install the extra gpu-decode, "
            "or use DECODE=cpu"
        ) from None
    try:
        wait = Cudart(open_library(ort)).synchronize
        return GpuDecoder(
            ThreadDecoder(settings.max_pixels),
            lambda: NvImageCodec(module, "cuda", threads, wait),
            OWNER,
            ort,
            _PROVIDERS,
            "cuda",
            settings.max_pixels,
            threads,
            settings.decode_timeout_ms / 1000,
        )
    except (NoGpu, NoGpuDecoding) as error:
        raise ModelError(
            f"DECODE=gpu, but images cannot be decoded on the GPU: {error}; DECODE=cpu decodes on the CPU"
        ) from error

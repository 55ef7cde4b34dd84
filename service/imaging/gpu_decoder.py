"""Decode baseline JPEGs on a GPU by NVIDIA's nvJPEG, and scale and crop them there.

nvJPEG decodes several images together 4 to 5 times as fast as one after the other (docs/gpu.md), so one
thread takes all that wait. Its pixels are not those of libjpeg-turbo, nor does it decode at a reduced size,
so the images say by which preprocessing they were made. Every other file, and every one that nvJPEG does
not decode, goes to another decoder, from which all errors come.
"""

import io
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image

from contract.errors import ImageError
from contract.formats.jpeg import baseline_end
from contract.picture import orientation, read_header
from contract.recipe import DEFAULT_RECIPE, Recipe, nvjpeg_id
from service.device_crops import DeviceCrops
from service.errors import short_message
from service.imaging.decode import BYTES_PER_PIXEL, DecodedImage
from service.imaging.decoder import DecodeClock, Decoder
from service.imaging.scaling import Crop, Scaler, crops_of
from service.observability.logs import log

MAX_TOGETHER: Final = 64  # images that are decoded together, of which each is waited for by a thread
_MAX_PIXELS: Final = 15_000_000  # of an image; decoding and scaling it take 15 bytes a pixel on the GPU
_MAX_PIXELS_TOGETHER: Final = 4 * _MAX_PIXELS
_MAX_ASPECT_RATIO: Final = 16  # beyond it, contract/preprocess.py cuts off what no crop reaches


class NoGpuDecoding(RuntimeError):
    """A test picture could not be decoded on the GPU."""


class Codec(Protocol):
    """Decode JPEGs to RGB in the memory of a device."""

    def decode(self, files: Sequence[bytes]) -> Sequence[Any]:
        """Decode files together; return images with a `shape`, and None for each that failed."""

    def address(self, image: Any) -> int:
        """Return the address of an image's pixels (height, width, 3) uint8, in consecutive rows."""


class NvImageCodec:
    """Decode by nvJPEG through NVIDIA's nvImageCodec, of which `module` is nvidia.nvimgcodec.

    `device` is "cuda", or "cpu" for its libjpeg-turbo. `synchronize` waits for the work of CUDA's default
    stream, with which decoding may return.
    """

    def __init__(
        self, module: Any, device: str, threads: int, synchronize: Callable[[], None] = lambda: None
    ) -> None:
        kinds = module.BackendKind
        # Not all of them: what nvJPEG does not decode, a decoder of nvImageCodec on the CPU would.
        allowed = [kinds.HW_GPU_ONLY, kinds.HYBRID_CPU_GPU] if device == "cuda" else [kinds.CPU_ONLY]
        self._decoder = module.Decoder(
            device_id=0 if device == "cuda" else module.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=threads,
            backends=[module.Backend(kind) for kind in allowed],
            options=":fancy_upsampling=1",  # chroma is interpolated, as by libjpeg-turbo
        )
        self._params = module.DecodeParams(apply_exif_orientation=False, color_spec=module.ColorSpec.SRGB)
        self._module, self._synchronize = module, synchronize
        self._interface = "__cuda_array_interface__" if device == "cuda" else "__array_interface__"

    def decode(self, files: Sequence[bytes]) -> Sequence[Any]:
        streams = [self._stream(file) for file in files]
        images: Sequence[Any] = self._decoder.decode(streams, params=self._params)
        self._synchronize()
        return images

    def _stream(self, file: bytes) -> Any:
        try:
            return self._module.CodeStream(file)
        except Exception:  # pybind11 raises RuntimeError and others
            return None

    def address(self, image: Any) -> int:
        interface = getattr(image, self._interface)
        assert interface["typestr"] == "|u1", "the pixels are not of 8 bits"
        assert interface.get("strides") is None, "the rows are not consecutive"
        return int(interface["data"][0])


@dataclass(eq=False)
class _Job:
    """A JPEG that a thread waits for; the result is None if it could not be decoded."""

    file: bytes
    width: int
    height: int
    recipe: Recipe
    crops: list[Crop]
    clock: DecodeClock
    result: Future[DecodedImage | None] = field(default_factory=Future)


class GpuDecoder:
    """Decode baseline JPEGs on a GPU, others with `fallback`; threads that call `decode` only wait.

    Up to `threads` images are decoded with `fallback` at the same time. An image may take `timeout` s on
    the GPU (0: no limit).

    All work on the GPU is done in `owner`, an executor of one thread, because sessions and their streams
    belong to a thread: what `open_codec` returns, and sessions of ONNX Runtime (the module `runtime`) with
    `providers` on `device`. Raises NoGpuDecoding if a test picture is not decoded.
    """

    def __init__(
        self,
        fallback: Decoder,
        open_codec: Callable[[], Codec],
        owner: Executor,
        runtime: Any,
        providers: Any,
        device: str,
        max_pixels: int,
        threads: int,
        timeout: float,
    ) -> None:
        self._fallback, self._owner, self._max_pixels = fallback, owner, max_pixels
        self._fallback_threads, self._timeout = threading.Semaphore(threads), timeout or math.inf
        self._began = math.inf  # when the images that are decoded now began to be
        self._runtime, self._device = runtime, device
        self._waiting: deque[_Job] = deque()
        try:
            owner.submit(self._open, open_codec, providers).result()
        except Exception as error:  # those of nvImageCodec and of ONNX Runtime share no base class
            raise NoGpuDecoding(short_message(error)) from error

    def _open(self, open_codec: Callable[[], Codec], providers: Any) -> None:
        self._codec = open_codec()
        self._scaler = Scaler(self._runtime, providers, self._device)
        file = io.BytesIO()
        Image.new("RGB", (64, 48)).save(file, "JPEG")
        job = self._job(file.getvalue(), DEFAULT_RECIPE, 1, DecodeClock())
        assert job is not None, "Pillow writes baseline JPEGs"
        self._decode_together([job])
        if not job.result.done():
            raise RuntimeError("it decodes no picture; is the package nvidia-nvjpeg installed?")

    @property
    def stuck_for(self) -> float:
        age = time.perf_counter() - self._began
        return age if age > self._timeout else self._fallback.stuck_for

    def start(self) -> None:
        self._fallback.start()

    def close(self) -> None:
        self._fallback.close()

    def decode(
        self, data: bytes, recipe: Recipe, crops: int, slow: bool, clock: DecodeClock
    ) -> DecodedImage:
        job = None if slow else self._job(data, recipe, crops, clock)
        if job is not None:
            self._waiting.append(job)
            self._owner.submit(self._decode_waiting)
            if (image := job.result.result()) is not None:
                return image
        with self._fallback_threads:
            return self._fallback.decode(data, recipe, crops, slow, clock)

    def _job(self, data: bytes, recipe: Recipe, crops: int, clock: DecodeClock) -> _Job | None:
        """Return the job of an image that is decoded on the GPU; None for every other one."""
        if (end := baseline_end(data)) is None:
            return None
        try:
            header = read_header(data, recipe, min(_MAX_PIXELS, self._max_pixels))
        except ImageError:  # `fallback` will say the same
            return None
        info, sides = header.image.info, (header.width, header.height)
        if (
            "icc_profile" in info
            or info.get("adobe_transform", 1) != 1  # its components are not Y, Cb and Cr
            or orientation(header.image) != 1
            or max(sides) > _MAX_ASPECT_RATIO * min(sides)
            or header.bytes > BYTES_PER_PIXEL * self._max_pixels  # refused by `decode_crops`
        ):
            return None
        return _Job(data[:end], *sides, recipe, crops_of(*sides, recipe, crops), clock)

    def _decode_waiting(self) -> None:
        """Decode images that wait, if an earlier call has not; runs in the owner's thread."""
        jobs, pixels = list[_Job](), 0
        while self._waiting and len(jobs) < MAX_TOGETHER and pixels <= _MAX_PIXELS_TOGETHER - _MAX_PIXELS:
            jobs.append(self._waiting.popleft())
            pixels += jobs[-1].width * jobs[-1].height
        try:
            if jobs:
                self._decode_together(jobs)
        except Exception as error:  # after most errors of CUDA, the next batch of a model ends the process
            log.error("images could not be decoded on the GPU: %s", short_message(error))
        finally:
            self._began = math.inf
            for job in jobs:
                if not job.result.done():
                    job.result.set_result(None)

    def _decode_together(self, jobs: Sequence[_Job]) -> None:
        began = self._began = time.perf_counter()
        for job in jobs:
            job.clock.began = began
        images = self._codec.decode([job.file for job in jobs])
        for job, image in zip(jobs, images, strict=True):
            if image is None or tuple(image.shape) != (job.height, job.width, 3):
                continue
            side, count = job.recipe.crop, len(job.crops)
            shape = [count, side, side, 3]
            memory = self._runtime.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, self._device, 0)
            crops = DeviceCrops(memory, 0, count, self._owner)
            for number, crop in enumerate(job.crops):
                pixels, target = self._codec.address(image), crops[number : number + 1].address
                self._scaler.scale(pixels, job.width, crop, target)
            job.result.set_result(
                DecodedImage(
                    crops,
                    job.width,
                    job.height,
                    "JPEG",
                    began,
                    time.perf_counter(),
                    preprocessing=nvjpeg_id(job.recipe),
                )
            )

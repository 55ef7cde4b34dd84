"""A stand-in for NVIDIA's package nvidia.nvimgcodec that decodes by Pillow into memory of the host.

The real one, with its decoder for the CPU, is tested in tests/cuda_api.
"""

import io
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image


class FakeNvImageCodec:
    """The module for `device`; `batches` has the files that were decoded together, by their size in bytes.

    The memory of a "cuda" device is the host's, as with tests/support/cuda_stand_in. `decodes` says which
    files are decoded, and `before` is called before each batch.
    """

    NVIMGCODEC_DEVICE_CPU_ONLY = -99999
    BackendKind = SimpleNamespace(CPU_ONLY="cpu", HW_GPU_ONLY="hw", HYBRID_CPU_GPU="hybrid")
    ColorSpec = SimpleNamespace(SRGB="srgb")

    def __init__(
        self,
        decodes: Callable[[bytes], bool] = lambda _file: True,
        before: Callable[[], None] = lambda: None,
        device: str = "cpu",
    ) -> None:
        self.decodes, self.before, self._device = decodes, before, device
        self.batches: list[list[int]] = []

    def Backend(self, kind: str) -> str:  # noqa: N802
        return kind

    def DecodeParams(self, apply_exif_orientation: bool, color_spec: str) -> str:  # noqa: N802
        assert (apply_exif_orientation, color_spec) == (False, "srgb")
        return "params"

    def CodeStream(self, file: bytes) -> bytes:  # noqa: N802
        return file

    def Decoder(  # noqa: N802
        self, device_id: int, max_num_cpu_threads: int, backends: Sequence[str], options: str
    ) -> Any:
        expected = (
            (0, ["hw", "hybrid"]) if self._device == "cuda" else (self.NVIMGCODEC_DEVICE_CPU_ONLY, ["cpu"])
        )
        assert (device_id, backends) == expected
        assert max_num_cpu_threads > 0
        assert options == ":fancy_upsampling=1"
        return SimpleNamespace(decode=self._decode)

    def _decode(self, files: Sequence[bytes], params: str) -> list[Any]:
        assert params == "params"
        self.before()
        self.batches.append([len(file) for file in files])
        image = _OnDevice if self._device == "cuda" else pixels
        return [image(file) if self.decodes(file) else None for file in files]


def pixels(file: bytes) -> np.ndarray[Any, Any]:
    """Decode at full size; an array has the interface of nvImageCodec's images on the CPU."""
    return np.array(Image.open(io.BytesIO(file)).convert("RGB"))


class _OnDevice:
    """An image with the interface of nvImageCodec's images on a GPU."""

    def __init__(self, file: bytes) -> None:
        self._pixels = pixels(file)
        self.shape = self._pixels.shape
        self.__cuda_array_interface__ = self._pixels.__array_interface__

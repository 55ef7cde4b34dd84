"""Crops in the memory of a GPU, which a session there takes without a way through the host's memory."""

import math
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DeviceCrops:
    """Crops (N, side, side, 3) uint8 in device memory, which stays allocated while they exist.

    `memory` is the OrtValue that owns it; they are `count` of its crops, from `first` on. NumPy takes them
    as an array, by a copy to the host, which is made in `owner`, the executor that uses the GPU.
    """

    def __init__(self, memory: Any, first: int, count: int, owner: Executor) -> None:
        self._memory, self._first, self._count, self._owner = memory, first, count, owner
        self._crop_bytes: int = math.prod(memory.shape()[1:])

    @property
    def address(self) -> int:
        return int(self._memory.data_ptr()) + self._first * self._crop_bytes

    @property
    def nbytes(self) -> int:
        return self._count * self._crop_bytes

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> "DeviceCrops":
        start, stop, step = part.indices(self._count)
        assert step == 1, "only consecutive crops can be taken"
        return DeviceCrops(self._memory, self._first + start, max(0, stop - start), self._owner)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self._owner.submit(self._memory.numpy).result()
        return np.asarray(pixels[self._first : self._first + self._count], dtype)


Crops = NDArray[np.uint8] | DeviceCrops  # (N, side, side, 3)

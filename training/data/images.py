"""Read picture files into scaled squares of uint8 pixels, with a digest of each file's bytes."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from contract.limits import available_memory, usable_cores
from contract.picture import ImageError, decode
from contract.preprocess import square
from contract.recipe import Recipe
from training.data.folders import Sample, printable
from training.errors import DataError

MAX_PIXELS = 200_000_000  # larger than the service's limit, which is for untrusted images
DIGEST_BYTES: Final = 8  # the probability that two of a million photographs collide is 3e-8

T = TypeVar("T")
_AHEAD = 512  # squares that may be waiting for an earlier one: 100 MB
_MEMORY_SHARE = 0.8  # of the free memory, for pictures; training takes the rest


@dataclass(frozen=True)
class Split:
    """Some pictures of a data set: the `rows` (N,) of `pixels` (M, resize, resize, 3) uint8.

    Training and validation pictures share `pixels`. `labels` and `digests` (N,) int64 and `names`
    (CLASS/FILE) belong to the N pictures.
    """

    pixels: Tensor
    rows: Tensor
    labels: Tensor
    digests: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def squares(self, places: Tensor) -> Tensor:
        """Copy the pictures at `places` (n,) -> (n, resize, resize, 3) uint8."""
        return self.pixels[self.rows[places]]

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield all pictures in order, at most `size` at a time."""
        for rows in torch.split(self.rows, size):
            yield self.pixels[rows]

    def part(self, places: slice | Tensor) -> "Split":
        """Select the pictures at `places`, without copying their pixels."""
        names = tuple(self.names[place] for place in torch.arange(len(self))[places].tolist())
        return Split(self.pixels, self.rows[places], self.labels[places], self.digests[places], names)


@dataclass(frozen=True)
class Reading:
    """The result of reading a list of files.

    `places` (N,) int64 are the indices of the readable files, ascending, and `digests` (N,) int64 their
    digests. `skipped` has a line with the reason for each of the other files.
    """

    places: Tensor
    digests: Tensor
    skipped: tuple[str, ...]


def digest_of(data: bytes) -> int:
    """Digest the bytes of a file: 8 bytes of blake2b, as a signed integer."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), "little", signed=True)


def read_digests(samples: Sequence[Sample], title: str) -> Reading:
    """Compute the digests of files without decoding them; `title` is for the progress bar."""
    return _read(samples, title, None, lambda _sample, data: digest_of(data), lambda digest: digest)


def read_squares(
    samples: Sequence[Sample],
    recipe: Recipe,
    title: str,
    workers: int | None,
    keep: Callable[[Tensor], object],
) -> Reading:
    """Decode every picture and pass its square to `keep`, in order; skip unreadable ones."""

    def load(_sample: Sample, data: bytes) -> tuple[Tensor, int]:
        return torch.from_numpy(square(decode(data, recipe, MAX_PIXELS), recipe).copy()), digest_of(data)

    def take(loaded: tuple[Tensor, int]) -> int:
        keep(loaded[0])
        return loaded[1]

    return _read(samples, title, workers, load, take)


def _read(
    samples: Sequence[Sample],
    title: str,
    workers: int | None,
    load: Callable[[Sample, bytes], T],
    take: Callable[[T], int],
) -> Reading:
    """Call `load` on the files in `workers` threads (default: one per core), and `take` in order."""

    def attempt(sample: Sample) -> T | str:
        try:
            return load(sample, sample.path.read_bytes())
        except ImageError as error:
            return f"{printable(sample.path)}: {error}"
        except OSError as error:
            return f"{printable(sample.path)}: {error.strerror or error}"

    readable: list[int] = []
    digests: list[int] = []
    skipped: list[str] = []
    with (
        ThreadPoolExecutor(workers or usable_cores()) as pool,
        tqdm(desc=title, total=len(samples), unit="img", leave=False, disable=None) as bar,
    ):
        for start in range(0, len(samples), _AHEAD):
            chunk = samples[start : start + _AHEAD]
            for place, loaded in enumerate(pool.map(attempt, chunk), start):
                bar.update()
                if isinstance(loaded, str):
                    skipped.append(loaded)
                else:
                    readable.append(place)
                    digests.append(take(loaded))
    return Reading(_int64(readable), _int64(digests), tuple(skipped))


def _int64(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def load_pictures(
    samples: Sequence[Sample], recipe: Recipe, title: str, workers: int | None = None
) -> tuple[Split, Reading]:
    """Decode pictures into memory -> the readable ones, and the Reading.

    Raises DataError before decoding if they do not fit into the memory that is free now.
    """
    needed = len(samples) * recipe.resize * recipe.resize * 3
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # started by torchrun; each has its own copy
    free = available_memory()
    if needed * processes > _MEMORY_SHARE * free:
        per_process = f" in each of {processes} processes" if processes > 1 else ""
        raise DataError(
            f"{len(samples):,} images take {needed / 1e9:.1f} GB of memory{per_process}, and "
            f"{free / 1e9:.1f} GB are free, of which {_MEMORY_SHARE:.0%} may be used; scale them once with "
            "`prepare`, and train on the folder that it writes"
        )
    pixels = torch.empty(len(samples), recipe.resize, recipe.resize, 3, dtype=torch.uint8)
    rows = iter(pixels)
    reading = read_squares(samples, recipe, title, workers, lambda row: next(rows).copy_(row))
    return split_of(pixels[: len(reading.places)], samples, reading), reading


def split_of(pixels: Tensor, samples: Sequence[Sample], reading: Reading) -> Split:
    """Make a Split of the readable ones of `samples`, whose squares are `pixels`."""
    readable = [samples[place] for place in reading.places.tolist()]
    labels, names = _int64([sample.label for sample in readable]), tuple(sample.name for sample in readable)
    return Split(pixels, torch.arange(len(readable)), labels, reading.digests, names)


def central(squares: Tensor, recipe: Recipe) -> Tensor:
    """Cut the central crops (N, crop, crop, 3) out of squares (N, resize, resize, 3)."""
    margin = (recipe.resize - recipe.crop) // 2
    window = slice(margin, margin + recipe.crop)
    return squares[:, window, window]


# A sum of at most 1024 products of values from -128 to 127 is below 2**24, and so exact in float32. Several
# pixels side by side make the matrices large enough for an efficient product.
_PIXELS, _BESIDE = 1024, 16
_AT_ONCE = 16 * _PIXELS * _BESIDE  # pixels that fit into the processor's cache


def channel_statistics(squares: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute the mean (3,) and covariance (3, 3) of RGB values, 0 to 255, in float64.

    `squares` (N, H, W, 3) uint8; `rows` (n,) selects some of them. The sums are integers, rounded once.
    """
    rows = torch.arange(len(squares)) if rows is None else rows
    size = squares[0].numel() // 3
    sums, products = torch.zeros(3, dtype=torch.int64), torch.zeros(3, 3, dtype=torch.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each worker runs on one core: its products are too small to divide
    try:
        with ThreadPoolExecutor(threads) as pool:
            chunks = torch.split(rows, max(1, _AT_ONCE // size))
            for chunk_sums, chunk_products in pool.map(lambda chunk: _sums(squares[chunk]), chunks):
                sums += chunk_sums
                products += chunk_products
    finally:
        torch.set_num_threads(threads)
    count, first, second = len(rows) * size, sums.tolist(), products.tolist()
    mean = [128 + total / count for total in first]
    # Python's integers, because the products of sums exceed 64 bits.
    covariance = [
        [(count * second[i][j] - first[i] * first[j]) / count**2 for j in range(3)] for i in range(3)
    ]
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)


def _sums(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Sum R, G and B, less 128 each (3,), and their products (3, 3), in int64."""
    values = squares.flatten().float().sub_(128)
    values = F.pad(values, (0, -len(values) % (3 * _PIXELS * _BESIDE)))
    values = values.view(-1, _PIXELS, 3 * _BESIDE)
    outer = torch.bmm(values.transpose(1, 2), values).to(torch.int64).sum(0)
    products = outer.view(_BESIDE, 3, _BESIDE, 3).diagonal(dim1=0, dim2=2).sum(-1)
    sums = (torch.ones(_PIXELS) @ values).to(torch.int64).sum(0).view(_BESIDE, 3).sum(0)
    return sums, products

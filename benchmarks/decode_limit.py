"""Measure what the cores can decode: the limit of a server whose network runs on a GPU."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path

from benchmarks.limit import NO_LIMIT, WARM_UP, keep_memory, undisturbed
from benchmarks.support.images import find_photographs
from contract.limits import usable_cores
from contract.manifest import METADATA_KEY, Manifest
from contract.picture import decode
from contract.preprocess import centre_crop
from contract.recipe import Recipe
from service.models import onnx_file


@contextmanager
def decode_ceiling(model: Path, images: Path) -> Iterator[Callable[[str, float], float]]:
    """Start a process per core; yield a function that measures images/s, as benchmarks.serve.ceiling does.

    It reads the files, decodes and crops them as `model` needs it, and takes only "limit".
    """
    recipe = Manifest.from_json(onnx_file.read(model.read_bytes()).metadata[METADATA_KEY]).recipe
    files, cores = find_photographs(images), usable_cores()
    shares = [files[number:] + files[:number] for number in range(cores)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, context, initializer=keep_memory) as pool:

        def images_per_s(seconds: float) -> float:
            start = time.perf_counter()
            done = sum(pool.map(partial(decode_for, recipe=recipe, seconds=seconds), shares))
            return done / (time.perf_counter() - start)

        def turn(kind: str, seconds: float) -> float:
            assert kind == "limit"
            images_per_s(WARM_UP * seconds)
            return undisturbed(partial(images_per_s, seconds))[0]

        yield turn


def decode_for(files: list[Path], recipe: Recipe, seconds: float) -> int:
    """Decode and crop files in turn; return their number."""
    done, end = 0, time.perf_counter() + seconds
    for file in cycle(files):
        centre_crop(decode(file.read_bytes(), recipe, NO_LIMIT), recipe)
        done += 1
        if time.perf_counter() >= end:
            break
    return done

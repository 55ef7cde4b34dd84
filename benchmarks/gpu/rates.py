"""Measure images/s of a loaded model, from crops in memory to probabilities there."""

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

from contract.preprocess import Pixels
from service.models.cuda_session import GPU_WORKERS
from service.models.session import Model


def images_per_s(model: Model, batch: int, threads: int, seconds: float) -> float:
    """Return images/s of `threads` that run one batch after the other."""
    crops = random_crops(batch)
    for _slot in range(GPU_WORKERS):  # whose memory is used for the first time
        model.run(crops)
    end = time.perf_counter() + seconds

    def run_until_end(_thread: int) -> int:
        done = 0
        while not done or time.perf_counter() < end:
            model.run(crops)
            done += batch
        return done

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(run_until_end, range(threads)))
    return done / (time.perf_counter() - start)


def images_per_s_after(model: Model, batch: int, other: int, seconds: float) -> float:
    """Return images/s of one thread and its median run, where each comes after a run of another size."""
    crops, before, times = random_crops(batch), random_crops(other), list[float]()
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        model.run(before)
        start = time.perf_counter()
        model.run(crops)
        times.append(time.perf_counter() - start)
    return batch / median(times)


def random_crops(count: int) -> list[Pixels]:
    """Return crops, each in memory of its own, as after decoding."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (1, 224, 224, 3), np.uint8) for _crop in range(count)]

"""Measure what this machine can do without HTTP: the limit that benchmarks/serve.py compares with.

    python -m benchmarks.limit --model models/flowers17.onnx --images FOLDER

Prints the cost of an image by stage in core-milliseconds (CPU time of all threads), then images/s of two
arrangements, of which the better one is the limit: "pool", threads that decode while one session with all
cores runs batch after batch, and "workers", a thread per core that decodes a batch and runs it on a session
of one thread.

With `--turns` it serves benchmarks/serve.py instead: for each line on stdin, `limit` or `single` and
seconds, it prints the limit in images/s, or the ms of a single image. No server can do better.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from benchmarks.support.images import LARGE, SMALL, draw_photographs, find_photographs
from benchmarks.support.machine import STEAL_LIMIT, Watch
from contract.limits import usable_cores
from contract.picture import decode
from contract.preprocess import Pixels, centre_crop
from service.host import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt
from service.models.session import Model, load_model

BATCHES = (1, 8, 16, 32)
NO_LIMIT = 1 << 40  # pixels
TRIES, TRY_S = 5, 1.0  # per arrangement, before the turns begin
WARM_UP = 0.5  # fraction of a turn's seconds that is not counted
MALLOC_THRESHOLD = 64_000_000  # bytes; glibc keeps smaller blocks in the process


def stages(model: Model, files: list[Path]) -> dict[str, float]:
    """Return the core-ms per image of each stage, measured by itself."""
    recipe = model.manifest.recipe
    costs = {
        "read": _thread_ms(lambda: [file.read_bytes() for file in files], len(files)),
    }
    bodies = [file.read_bytes() for file in files]
    # One picture at a time, as in the service: if they were kept, each decode would need new memory.
    costs["decode"] = _thread_ms(
        lambda: [decode(body, recipe, NO_LIMIT) and None for body in bodies], len(files)
    )
    costs["crop"] = (
        _thread_ms(lambda: [crop_of(body, model) for body in bodies], len(files)) - costs["decode"]
    )
    crops = list(islice(cycle([crop_of(body, model) for body in bodies]), max(BATCHES)))
    for size in BATCHES:
        wall, core = _run_ms(model, crops[:size])
        costs[f"inference_{size}"] = core / size
        costs[f"inference_{size}_wall"] = wall / size
    return costs


def crop_of(body: bytes, model: Model) -> Pixels:
    """Decode an image to its central crop, (1, 224, 224, 3)."""
    return centre_crop(decode(body, model.manifest.recipe, NO_LIMIT), model.manifest.recipe)[None]


def _thread_ms(work: Callable[[], object], images: int, repeats: int = 3) -> float:
    """Return the least CPU ms per image of several repeats: disturbances only add time."""
    times = []
    for _repeat in range(repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return 1000 * min(times) / images


def _run_ms(model: Model, batch: list[Pixels], repeats: int = 8) -> tuple[float, float]:
    """Return the median wall-clock ms and the least CPU ms of one run."""
    model.run(batch)
    walls, cores = [], []
    for _repeat in range(repeats):
        wall, core = time.perf_counter(), time.process_time()
        model.run(batch)
        walls.append(1000 * (time.perf_counter() - wall))
        cores.append(1000 * (time.process_time() - core))
    return sorted(walls)[repeats // 2], min(cores)


def pool(model: Model, files: list[Path], seconds: float, threads: int, batch: int) -> float:
    """Return images/s of `threads` that decode at most two batches ahead of one caller of the session.

    `model` must use all threads for a run.
    """
    source, ready = cycle(files), deque[Future[Pixels]]()
    done, start = 0, time.perf_counter()
    with ThreadPoolExecutor(threads) as decoders:
        while time.perf_counter() - start < seconds:
            while len(ready) < 2 * batch:
                ready.append(decoders.submit(lambda file: crop_of(file.read_bytes(), model), next(source)))
            model.run([ready.popleft().result() for _image in range(batch)], exclusive=True)
            done += batch
        elapsed = time.perf_counter() - start
        decoders.shutdown(cancel_futures=True)
    return done / elapsed


def workers(model: Model, files: list[Path], seconds: float, threads: int, batch: int) -> float:
    """Return images/s of threads that each decode a batch and run it."""
    done, start = [0] * threads, time.perf_counter()

    def work(number: int) -> None:
        source = cycle(files[number:] + files[:number])
        while time.perf_counter() - start < seconds:
            model.run([crop_of(file.read_bytes(), model) for file in islice(source, batch)])
            done[number] += batch

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def single(model: Model, files: list[Path], seconds: float) -> float:
    """Return the median ms of reading, decoding, cropping and a batch of one, for one image at a time."""
    times, source, start = [], cycle(files), time.perf_counter()
    while (image_start := time.perf_counter()) - start < seconds:
        model.run([crop_of(next(source).read_bytes(), model)], exclusive=True)
        times.append(1000 * (time.perf_counter() - image_start))
    return median(times)


def undisturbed(measure: Callable[[], float]) -> tuple[float, Watch]:
    """Measure, and repeat up to twice if other guests took more than STEAL_LIMIT of the cores."""
    for _attempt in range(3):
        with Watch() as watch:
            result = measure()
        if watch.steal <= STEAL_LIMIT:
            break
        print(f"repeated: other guests took {watch.steal:.1f} % of the cores", file=sys.stderr)
    return result, watch


def take_turns(
    arrangements: dict[str, Callable[[float], float]], single_ms: Callable[[float], float]
) -> None:
    """Answer the requests on stdin, the limit always with the same arrangement.

    The better one is chosen once: taking the larger of two noisy figures each time would be biased.
    """
    tries = [{name: measure(TRY_S) for name, measure in arrangements.items()} for _try in range(TRIES)]
    best = max(arrangements, key=lambda name: sum(rates[name] for rates in tries))
    for line in sys.stdin:
        kind, seconds = line.split()
        measure = arrangements[best] if kind == "limit" else single_ms
        measure(WARM_UP * float(seconds))
        print(undisturbed(partial(measure, float(seconds)))[0], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/flowers17.onnx"))
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: drawn, 101 KB each")
    parser.add_argument("--large", action="store_true", help="drawn photographs of 12 megapixels")
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", action="store_true", help="for benchmarks/serve.py")
    args = parser.parse_args()

    keep_memory()
    cores = usable_cores()
    model = load_model(args.model, "cpu", cores)
    all_cores = load_model(args.model, "cpu", cores, large_bytes=0)
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(args.images, args.large, Path(folder))
        arrangements: dict[str, Callable[[float], float]] = {
            "pool": partial(pool, all_cores, files, threads=cores, batch=args.batch),
            "workers": partial(workers, model, files, threads=cores, batch=args.batch),
        }
        if args.turns:
            take_turns(arrangements, partial(single, model, files))
            return
        print(f"core-ms per image ({cores} cores, {len(files)} photographs)")
        costs = stages(model, files)
        for name in ("read", "decode", "crop"):
            print(f"  {name:<20}{costs[name]:7.2f}")
        for size in BATCHES:
            core, wall = costs[f"inference_{size}"], costs[f"inference_{size}_wall"]
            print(f"  inference, batch {size:<3}{core:7.2f}   {wall:.2f} ms wall clock")
        print(f"decode, crop and a batch of one: {single(model, files, args.seconds):.1f} ms wall clock")
        rates = []
        for name, measure in arrangements.items():
            rate, watch = undisturbed(partial(measure, args.seconds))
            print(f"{name:<8}{rate:7.1f} images/s, steal {watch.steal:.1f} %")
            rates.append(rate)
        print(f"limit   {max(rates):7.1f} images/s")


def keep_memory() -> None:
    """Make glibc keep freed memory in the process.

    By default it depends on addresses whether freed memory goes back to the kernel. If it does, every image
    faults in 340 pages and takes 3 ms instead of 2 to decode.
    """
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        mallopt(option, MALLOC_THRESHOLD)


def photographs(folder: Path | None, large: bool, scratch: Path) -> list[Path]:
    """Return the files to send: those of the user, or drawn ones in `scratch`."""
    if folder is not None:
        return find_photographs(folder)
    return draw_photographs(scratch, 4, LARGE) if large else draw_photographs(scratch, 64, SMALL)


if __name__ == "__main__":
    main()

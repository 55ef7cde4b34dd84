"""What this machine can do without HTTP: the ceiling that benchmarks/serve.py measures the server against.

    python -m benchmarks.limit --model models/flowers17.onnx --images FOLDER

Prints what an image costs by stage in core-milliseconds (CPU time of all threads), then images a second
with everything at once, in two arrangements of which the better one is the limit: "pool", threads that
decode while one session with all cores takes batch after batch, and "lanes", a thread per core that
decodes a batch and runs it by itself on a session of one thread.

With `--turns` it answers benchmarks/serve.py instead: for each line of its standard input, `limit` or
`alone` and seconds, the limit in images/s or the ms of an image that is alone. No server can do better.
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

from benchmarks.support.images import LARGE, SMALL, drawn, found
from benchmarks.support.machine import STEAL_LIMIT, Watch
from contract.limits import usable_cores
from contract.picture import decode
from contract.preprocess import Pixels, centre_crop
from service.host import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt
from service.models.session import Model, load_model

BATCHES = (1, 8, 16, 32)
NO_LIMIT = 1 << 40  # pixels
TRIES, TRY_S = 5, 1.0  # of each arrangement, before turns begin
WARM_UP = 0.5  # of a turn's seconds, before it counts
KEPT = 64_000_000  # bytes


def stages(model: Model, files: list[Path]) -> dict[str, float]:
    """Core-ms an image of each stage, alone on the machine."""
    recipe = model.manifest.recipe
    costs = {
        "read": _thread_ms(lambda: [file.read_bytes() for file in files], len(files)),
    }
    bodies = [file.read_bytes() for file in files]
    # One at a time, as in serving: pictures held on to would make every decode pay for fresh memory.
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
    return centre_crop(decode(body, model.manifest.recipe, NO_LIMIT), model.manifest.recipe)


def _thread_ms(work: Callable[[], object], images: int, repeats: int = 3) -> float:
    """The least of some repeats, per image: what disturbs only ever adds."""
    times = []
    for _repeat in range(repeats):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return 1000 * min(times) / images


def _run_ms(model: Model, batch: list[Pixels], repeats: int = 8) -> tuple[float, float]:
    """Median wall-clock and least CPU ms of one run."""
    model.run(batch)
    walls, cores = [], []
    for _repeat in range(repeats):
        wall, core = time.perf_counter(), time.process_time()
        model.run(batch)
        walls.append(1000 * (time.perf_counter() - wall))
        cores.append(1000 * (time.process_time() - core))
    return sorted(walls)[repeats // 2], min(cores)


def pool(model: Model, files: list[Path], seconds: float, threads: int, batch: int) -> float:
    """Images a second: `threads` decode ahead of one caller of the session, by two batches at most; `model`
    is to use all of them for a run.
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


def lanes(model: Model, files: list[Path], seconds: float, threads: int, batch: int) -> float:
    """Images a second: each thread decodes a batch and runs it."""
    done, start = [0] * threads, time.perf_counter()

    def lane(number: int) -> None:
        source = cycle(files[number:] + files[:number])
        while time.perf_counter() - start < seconds:
            model.run([crop_of(file.read_bytes(), model) for file in islice(source, batch)])
            done[number] += batch

    workers = [threading.Thread(target=lane, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - start)


def alone(model: Model, files: list[Path], seconds: float) -> float:
    """Median ms of reading, decoding, cropping and a batch of one, one image after the other."""
    times, source, start = [], cycle(files), time.perf_counter()
    while (began := time.perf_counter()) - start < seconds:
        model.run([crop_of(next(source).read_bytes(), model)], exclusive=True)
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


def undisturbed(measure: Callable[[], float]) -> tuple[float, Watch]:
    """`measure` again, three times at most, while other guests take more than STEAL_LIMIT of the cores."""
    for _attempt in range(3):
        with Watch() as watch:
            result = measure()
        if watch.steal <= STEAL_LIMIT:
            break
        print(f"repeated: other guests took {watch.steal:.1f} % of the cores", file=sys.stderr)
    return result, watch


def take_turns(ways: dict[str, Callable[[float], float]], one: Callable[[float], float]) -> None:
    """The better of the `ways` is found once: the larger of two noisy figures, each time, is too large."""
    tries = [{name: way(TRY_S) for name, way in ways.items()} for _try in range(TRIES)]
    best = max(ways, key=lambda name: sum(rates[name] for rates in tries))
    for line in sys.stdin:
        what, seconds = line.split()
        measure = ways[best] if what == "limit" else one
        measure(WARM_UP * float(seconds))
        print(undisturbed(partial(measure, float(seconds)))[0], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/flowers17.onnx"))
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: drawn, 101 KB each")
    parser.add_argument("--large", action="store_true", help="drawn photographs of 12 megapixels")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", action="store_true", help="for benchmarks/serve.py")
    args = parser.parse_args()

    keep_memory()
    cores = usable_cores()
    model = load_model(args.model, "cpu", cores)
    whole = load_model(args.model, "cpu", cores, large_bytes=0)
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(args.images, args.large, Path(folder))
        ways: dict[str, Callable[[float], float]] = {
            "pool": partial(pool, whole, files, threads=cores, batch=args.batch),
            "lanes": partial(lanes, model, files, threads=cores, batch=args.batch),
        }
        if args.turns:
            take_turns(ways, partial(alone, model, files))
            return
        print(f"core-ms an image ({cores} cores, {len(files)} photographs)")
        costs = stages(model, files)
        for name in ("read", "decode", "crop"):
            print(f"  {name:<20}{costs[name]:7.2f}")
        for size in BATCHES:
            core, wall = costs[f"inference_{size}"], costs[f"inference_{size}_wall"]
            print(f"  inference, batch {size:<3}{core:7.2f}   {wall:.2f} ms by the clock")
        print(f"decode, crop and a batch of one: {alone(model, files, args.seconds):.1f} ms by the clock")
        rates = []
        for name, way in ways.items():
            rate, watch = undisturbed(partial(way, args.seconds))
            print(f"{name:<6}{rate:7.1f} images/s, steal {watch.steal:.1f} %")
            rates.append(rate)
        print(f"limit {max(rates):7.1f} images/s")


def keep_memory() -> None:
    """What is freed stays with the process. Where glibc decides, it is a matter of addresses: no page is
    asked for anew, or 340 with every image, which then takes 3 ms instead of 2 to decode.
    """
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        mallopt(option, KEPT)


def photographs(folder: Path | None, large: bool, scratch: Path) -> list[Path]:
    """The files to send: the user's, or drawn into `scratch`."""
    if folder is not None:
        return found(folder)
    return drawn(scratch, 4, LARGE) if large else drawn(scratch, 64, SMALL)


if __name__ == "__main__":
    main()

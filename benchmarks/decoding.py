"""Compare decoding in separate processes (DECODE_PROCESSES) with decoding in threads.

Both run by turns on the same pictures, without HTTP and without the neural network.

    python -m benchmarks.decoding [--seconds 3] [--turns 5]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.support.images import LARGE, SMALL, draw_photographs
from contract.limits import usable_cores
from contract.recipe import DEFAULT_RECIPE
from service.imaging.decoder import DecodeClock, Decoder, ThreadDecoder
from service.imaging.process_decoder import ProcessDecoder
from service.settings import Settings


def rate(decoder: Decoder, pictures: Sequence[bytes], seconds: float, callers: int) -> float:
    """Return images/s with `callers` threads that decode at the same time."""
    end = time.perf_counter() + seconds

    def decode_until_end(first: int) -> int:
        done = 0
        while time.perf_counter() < end:
            decoder.decode(pictures[(first + done) % len(pictures)], DEFAULT_RECIPE, 1, True, DecodeClock())
            done += 1
        return done

    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        done = sum(pool.map(decode_until_end, range(callers)))
    return done / (time.perf_counter() - start)


def latency(decoder: Decoder, pictures: Sequence[bytes], seconds: float) -> list[float]:
    """Return the ms of each picture, decoded one after the other."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        decoder.decode(pictures[len(times) % len(pictures)], DEFAULT_RECIPE, 1, True, DecodeClock())
        times.append(1000 * (time.perf_counter() - start))
    return times


def compare(pictures: Sequence[bytes], seconds: float, turns: int) -> None:
    cores, max_pixels = usable_cores(), Settings().max_pixels
    decoders: dict[str, Decoder] = {
        "threads": ThreadDecoder(max_pixels),
        "processes": ProcessDecoder(cores, max_pixels, 5),
    }
    rates: dict[str, list[float]] = {name: [] for name in decoders}
    latencies: dict[str, list[float]] = {name: [] for name in decoders}
    for decoder in decoders.values():
        decoder.start()
    for _turn in range(turns):
        for name, decoder in decoders.items():
            rates[name].append(rate(decoder, pictures, seconds, cores))
            latencies[name] += latency(decoder, pictures, seconds)
    for name, decoder in decoders.items():
        middle = statistics.median(rates[name])
        spread = f"{min(rates[name]):.0f} to {max(rates[name]):.0f}"
        p50 = statistics.median(latencies[name])
        print(f"  {name:10} {middle:7.1f} images/s ({spread}), single-picture p50 {p50:6.2f} ms")
        decoder.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for count, size in ((16, SMALL), (4, LARGE)):
            pictures = [path.read_bytes() for path in draw_photographs(Path(folder), count, size)]
            kilobytes = sum(map(len, pictures)) // len(pictures) // 1000
            print(f"{size[0]}x{size[1]}, {kilobytes} KB, {usable_cores()} threads or processes:")
            compare(pictures, options.seconds, options.turns)


if __name__ == "__main__":
    main()

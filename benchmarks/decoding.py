"""What it costs to decode in processes of their own (DECODE_PROCESSES) rather than in threads: both without
HTTP and without a network, in turns, on the same pictures.

    python -m benchmarks.decoding [--seconds 3] [--turns 5]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.support.images import LARGE, SMALL, drawn
from contract.limits import usable_cores
from contract.recipe import DEFAULT_RECIPE
from service.imaging.decoder import DecodeClock, Decoder, ThreadDecoder
from service.imaging.process_decoder import ProcessDecoder
from service.settings import Settings


def rate(decoder: Decoder, pictures: Sequence[bytes], seconds: float, callers: int) -> float:
    """Images a second, with so many threads asking at once."""
    end = time.perf_counter() + seconds

    def ask(first: int) -> int:
        done = 0
        while time.perf_counter() < end:
            decoder.decode(pictures[(first + done) % len(pictures)], DEFAULT_RECIPE, 1, True, DecodeClock())
            done += 1
        return done

    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        done = sum(pool.map(ask, range(callers)))
    return done / (time.perf_counter() - began)


def latency(decoder: Decoder, pictures: Sequence[bytes], seconds: float) -> list[float]:
    """ms of each, one after the other."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        decoder.decode(pictures[len(took) % len(pictures)], DEFAULT_RECIPE, 1, True, DecodeClock())
        took.append(1000 * (time.perf_counter() - began))
    return took


def compare(pictures: Sequence[bytes], seconds: float, turns: int) -> None:
    cores, most = usable_cores(), Settings().max_pixels
    decoders: dict[str, Decoder] = {
        "threads": ThreadDecoder(most),
        "processes": ProcessDecoder(cores, most, 5),
    }
    rates: dict[str, list[float]] = {name: [] for name in decoders}
    exclusive: dict[str, list[float]] = {name: [] for name in decoders}
    for decoder in decoders.values():
        decoder.start()
    for _turn in range(turns):
        for name, decoder in decoders.items():
            rates[name].append(rate(decoder, pictures, seconds, cores))
            exclusive[name] += latency(decoder, pictures, seconds)
    for name, decoder in decoders.items():
        middle = statistics.median(rates[name])
        spread = f"{min(rates[name]):.0f} to {max(rates[name]):.0f}"
        p50 = statistics.median(exclusive[name])
        print(f"  {name:10} {middle:7.1f} images/s ({spread}), alone p50 {p50:6.2f} ms")
        decoder.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for count, size in ((16, SMALL), (4, LARGE)):
            pictures = [path.read_bytes() for path in drawn(Path(folder), count, size)]
            kilobytes = sum(map(len, pictures)) // len(pictures) // 1000
            print(f"{size[0]}x{size[1]}, {kilobytes} KB, {usable_cores()} of each:")
            compare(pictures, options.seconds, options.turns)


if __name__ == "__main__":
    main()

"""What it costs to decode in processes of their own (DECODE_PROCESSES) rather than in threads: both without
HTTP and without a network, in turns, on the same pictures.

    python -m benchmarks.decoding [--seconds 3] [--turns 5]
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.images import LARGE, SMALL, drawn
from contract.limits import usable_cores
from contract.recipe import DEFAULT_RECIPE
from service.decode_processes import Processes
from service.decode_threads import Threads
from service.decoding import Decoder
from service.settings import Settings


async def rate(decoder: Decoder, pictures: Sequence[bytes], seconds: float, callers: int) -> float:
    """Images a second, with so many asking at once."""
    end, done = time.perf_counter() + seconds, 0

    async def ask(first: int) -> None:
        nonlocal done
        index = first
        while time.perf_counter() < end:
            await decoder.decode(pictures[index % len(pictures)], DEFAULT_RECIPE, 1)
            index += callers
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(ask(first) for first in range(callers)))
    return done / (time.perf_counter() - began)


async def latency(decoder: Decoder, pictures: Sequence[bytes], seconds: float) -> list[float]:
    """ms of each, one after the other."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        await decoder.decode(pictures[len(took) % len(pictures)], DEFAULT_RECIPE, 1)
        took.append(1000 * (time.perf_counter() - began))
    return took


async def compare(pictures: Sequence[bytes], seconds: float, turns: int) -> None:
    cores, most = usable_cores(), Settings().max_pixels
    decoders: dict[str, Decoder] = {
        "threads": Threads(cores, most, 5),
        "processes": Processes(cores, most, 5),
    }
    rates: dict[str, list[float]] = {name: [] for name in decoders}
    alone: dict[str, list[float]] = {name: [] for name in decoders}
    for decoder in decoders.values():
        await decoder.start()
    for _turn in range(turns):
        for name, decoder in decoders.items():
            rates[name].append(await rate(decoder, pictures, seconds, 4 * cores))
            alone[name] += await latency(decoder, pictures, seconds)
    for name, decoder in decoders.items():
        middle = statistics.median(rates[name])
        spread = f"{min(rates[name]):.0f} to {max(rates[name]):.0f}"
        p50 = statistics.median(alone[name])
        print(f"  {name:10} {middle:7.1f} images/s ({spread}), alone p50 {p50:6.2f} ms")
        await decoder.close()


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
            asyncio.run(compare(pictures, options.seconds, options.turns))


if __name__ == "__main__":
    main()

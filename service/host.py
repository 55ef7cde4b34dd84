"""Set how the process uses its machine: memory, thread priorities, and cores."""

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h
M_MMAP_THRESHOLD: Final = -3
# Nice values of threads; the event loop has 0. Decoding sometimes holds the GIL: a thread that takes its
# core meanwhile delays the event loop too, so batches come after decoding. Two runs of 60 s at 10 times the
# peak load, p99 of refusals: 165 and 65 ms with 5 for both kinds, 19 and 30 ms with these values.
DECODE_NICE: Final = 5
SLOW_DECODE_NICE: Final = 7  # not much lower, or it would hardly run beside other programs
BATCH_NICE: Final = 10


def set_mmap_threshold() -> None:
    """Make malloc return freed blocks of 8 MB or more to the system, and keep smaller ones.

    By default glibc raises this threshold to up to 32 MB, for every thread, and image buffers consist of 16
    MB blocks. With a fixed threshold four threads hold 18 bytes per pixel, not 60. A trim threshold of 4 MB
    keeps smaller blocks at the end of the heap: returning them cost 0.5 ms in the kernel per 500x375
    pixels.
    """
    mallopt(M_MMAP_THRESHOLD, 8_000_000)
    mallopt(M_TRIM_THRESHOLD, 4_000_000)


def mallopt(option: int, value: int) -> None:
    """Call glibc's mallopt; do nothing with another C library."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(option, value)


def trim() -> None:
    """Return the allocator's free memory to the system, in about 10 ms; only with glibc.

    Otherwise glibc keeps blocks that held parts of bodies or a model until those above them are free too.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def freeze_startup_objects() -> None:
    """Exempt start-up objects from garbage collection, and make full collections rare.

    A full pass over imported modules stops every thread for 40 ms. Models that are loaded later can still
    be freed. A full pass over the other objects takes 60 ms under full load (75,000 objects of requests);
    it came every four seconds and freed nothing, and now comes every few minutes of full load.
    """
    gc.collect()
    gc.freeze()
    young, middle, _old = gc.get_threshold()
    gc.set_threshold(young, middle, 1000)


def limit_memory(extra_bytes: int) -> None:
    """Limit the address space to `extra_bytes` more than now; forbid core dumps and writing files."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    max_bytes = pages * resource.getpagesize() + extra_bytes
    for kind, limit in (
        (resource.RLIMIT_AS, max_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(kind, (limit, limit))


def lower_thread_priority(nice: int) -> None:
    """Lower the priority of the calling thread by `nice`, on Linux.

    Else the event loop competes with it where every core is busy: each refusal and each /health would wait
    for a batch.
    """
    if sys.platform == "linux":  # elsewhere a priority applies to the whole process
        with suppress(OSError):  # a sandbox may forbid it; then the priority stays
            os.nice(nice)


def pin_thread(number: int, threads: int) -> None:
    """Pin the calling thread, `number` of `threads`, to a core, if each thread can have its own.

    The kernel's scheduler leaves two threads on one core for milliseconds while another core is idle.
    """
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        if (
            len(cores) == threads
        ):  # not with a CPU quota: other processes might pin threads to the same cores
            with suppress(OSError):
                os.sched_setaffinity(0, {cores[number]})

"""What a process takes of its machine: memory, priorities of threads, and cores."""

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
# Decoding holds the interpreter now and then: for what takes the core from it then, the event loop waits
# too. 60 s at 10 times the peak, twice each, refusals (p99): 165 and 65 ms with 5 for both, 19 and 30 so.
DECODE_NICE: Final = 5
SLOW_DECODE_NICE: Final = 7  # not much lower: beside other programs it would hardly be done at all
BATCH_NICE: Final = 10


def set_mmap_threshold() -> None:
    """Free blocks of a picture's size for the system, and keep those that the next picture takes.

    glibc learns to keep freed blocks of up to 32 MB, in every thread; pictures are made of 16 MB ones.
    With a fixed threshold they go back to the system: 18 bytes a pixel held by four threads, not 60.
    Smaller ones at the end of its heap went back as well: 0.5 ms of the kernel for each 500x375 pixels.
    """
    mallopt(M_MMAP_THRESHOLD, 8_000_000)
    mallopt(M_TRIM_THRESHOLD, 4_000_000)


def mallopt(option: int, value: int) -> None:
    """glibc's, where the allocator is glibc's."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(option, value)


def trim() -> None:
    """Give the system what is free of the allocator's memory, where it is glibc's; some 10 ms.

    It keeps the blocks that pieces of bodies or a model were in, until those above them are free too.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def freeze_startup_objects() -> None:
    """What is there by now is never looked at by the collector again. Of the modules alone one look takes
    40 ms, in which no thread runs; models that are loaded later can still be freed.

    A look at all the rest takes 60 ms while the house is full (75,000 objects of requests), and came every
    four seconds and found nothing: it comes every few minutes of full load instead.
    """
    gc.collect()
    gc.freeze()
    young, middle, _old = gc.get_threshold()
    gc.set_threshold(young, middle, 1000)


def limit_memory(more: int) -> None:
    """`more` bytes than now, of addresses; and no files, no core dumps."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    for kind, limit in (
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(kind, (limit, limit))


def lower_thread_priority(nice: int) -> None:
    """Lowers the priority of the calling thread. Where every core computes, the event loop waits for its
    turn like everybody: each refusal and each /health behind a batch.
    """
    if sys.platform == "linux":  # elsewhere a priority is a whole process's
        with suppress(OSError):  # a sandbox may not let us; then it is as it was
            os.nice(nice)


def pin_thread(number: int, threads: int) -> None:
    """The calling thread is one of so many that compute, and stays on one core where each can have its own.
    The scheduler leaves two on a core for milliseconds while another core is at rest.
    """
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) == threads:  # not where a quota leaves fewer: others would choose the same ones
            with suppress(OSError):
                os.sched_setaffinity(0, {cores[number]})

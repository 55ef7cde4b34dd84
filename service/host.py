"""What a process takes of the machine's memory."""

import ctypes
import gc
import resource
from pathlib import Path
from typing import Final

M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h
M_MMAP_THRESHOLD: Final = -3


def give_large_memory_back() -> None:
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


def spare_what_stays() -> None:
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

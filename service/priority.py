"""The event loop before everything that computes, and of that decoding before batches;
and a core for each thread that decodes.
"""

import os
import sys
from contextlib import suppress
from typing import Final

# Decoding holds the interpreter now and then: for what takes the core from it then, the event loop waits
# too. 60 s at 10 times the peak, twice each, refusals (p99): 165 and 65 ms with 5 for both, 19 and 30 so.
DECODING: Final = 5
SLOW_DECODING: Final = 7  # not much lower: beside other programs it would hardly be done at all
BATCHES: Final = 10


def give_way(nice: int) -> None:
    """Lowers the priority of the calling thread. Where every core computes, the event loop waits for its
    turn like everybody: each refusal and each /health behind a batch.
    """
    if sys.platform == "linux":  # elsewhere a priority is a whole process's
        with suppress(OSError):  # a sandbox may not let us; then it is as it was
            os.nice(nice)


def keep_to_core(number: int, threads: int) -> None:
    """The calling thread is one of so many that compute, and stays on one core where each can have its own.
    The scheduler leaves two on a core for milliseconds while another core is at rest.
    """
    if sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) == threads:  # not where a quota leaves fewer: others would choose the same ones
            with suppress(OSError):
                os.sched_setaffinity(0, {cores[number]})

"""The event loop before everything that computes."""

import os
import sys
from contextlib import suppress
from typing import Final

NICE: Final = 5  # 15 s at 10 times the peak: refusals took 23 ms (p99), not 248


def give_way() -> None:
    """Lowers the priority of the calling thread. Where every core computes, the event loop waits for its
    turn like everybody: each refusal and each /health behind a batch.
    """
    if sys.platform == "linux":  # elsewhere a priority is a whole process's
        with suppress(OSError):  # a sandbox may not let us; then it is as it was
            os.nice(NICE)

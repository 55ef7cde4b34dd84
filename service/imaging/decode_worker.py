"""Decode images of untrusted clients in its own process: python -m service.imaging.decode_worker.

It imports only numpy and Pillow, so it is small and starts quickly. For each image, `process_decoder`
writes a line of JSON to its standard input and then as many bytes as the line's `bytes` says. The worker
stores the crops in memory that both processes share, then writes a line of JSON to its standard output.
"""

import ctypes
import json
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from mmap import mmap
from typing import Any, BinaryIO, Final

from contract.errors import ImageError
from contract.picture import Header
from contract.recipe import RECIPES
from service.host import limit_memory, set_mmap_threshold
from service.imaging.decode import SLOW_S, SlowPicture, decode_crops, estimated_seconds, shared_crops
from service.stdio import discard_library_stderr

PR_SET_PDEATHSIG: Final = 1  # of linux/prctl.h


def serve(requests: BinaryIO, answers: BinaryIO, shared: mmap) -> None:
    """Decode images until `requests` ends."""
    answers.write(b"ready\n")
    answers.flush()
    while line := requests.readline():
        job = json.loads(line)
        answers.write(json.dumps(_answer(job, requests.read(job["bytes"]), shared)).encode() + b"\n")
        answers.flush()


def _answer(job: dict[str, Any], data: bytes, shared: mmap) -> dict[str, Any]:
    def require_quick(header: Header) -> AbstractContextManager[None]:
        seconds = estimated_seconds(header)
        if seconds > SLOW_S and not job["slow"]:
            raise SlowPicture(seconds)
        return nullcontext()

    try:
        image = decode_crops(data, RECIPES[job["recipe"]], job["max_pixels"], job["crops"], require_quick)
    except SlowPicture as slow:
        return {"slow": slow.seconds}
    except ImageError as error:
        return {"error": type(error).__name__, "detail": str(error)}
    except MemoryError:
        detail = "decoding the image takes more memory than is allowed; send it smaller"
        return {"error": "InvalidImage", "detail": detail}
    shared_crops(shared, RECIPES[job["recipe"]], job["crops"])[:] = image.crops
    fields = ("width", "height", "format", "began", "ended", "profile_ignored")
    return {name: getattr(image, name) for name in fields}


def main() -> None:
    # Ctrl-C in a terminal also reaches this process; the service decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    discard_library_stderr()
    set_mmap_threshold()
    memory, shared = map(int, sys.argv[1:])
    limit_memory(memory)
    serve(sys.stdin.buffer, sys.stdout.buffer, mmap(shared, 0))


if __name__ == "__main__":
    main()

"""Fuzz the decoder, guided by code coverage: `scripts/fuzz SECONDS [FOLDER]`.

Pillow's Python code and the contract are instrumented. The C code of the codecs is not: it gets mutations
without guidance. A finding is any exception but ImageError and MemoryError, 2 s of CPU time, 512 MB, a
crash or a hang. It is written to the current folder as crash-*, oom-* or timeout-*, and the exit code is
not 0. FOLDER keeps the inputs that reached new code; a later run continues from them.
"""

import contextlib
import random
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "contract"]):
    from PIL import Image

    from contract.picture import ImageError
    from contract.recipe import DEFAULT_RECIPE, TORCHVISION_RECIPE
    from service.imaging.decode import decode_crops

from tests.corpus import cases

MAX_PIXELS = 4_000_000
MAX_S = 2.0
MAX_MB = 512
SEED_FILES = 400
MAX_BYTES = 200_000  # bytes


def decode(data: bytes) -> None:
    """Decode one input. Raises what counts as a finding."""
    recipe = TORCHVISION_RECIPE if len(data) % 4 == 0 else DEFAULT_RECIPE
    start = time.process_time()
    with contextlib.suppress(ImageError, MemoryError):
        decode_crops(data, recipe, MAX_PIXELS, 10 if len(data) % 8 == 1 else 1)
    seconds = time.process_time() - start
    if seconds > MAX_S:
        raise TimeoutError(f"{seconds:.1f} s")


def write_seeds(folder: Path) -> None:
    """Write the initial inputs: intact files, and a sample of the small hostile ones."""
    quick = [case for case in cases() if not case.large and not case.name.startswith("bomb-")]
    intact = [case for case in quick if case.name.startswith(("sound-", "mode-"))]
    rest = random.Random(0).sample(quick, SEED_FILES - len(intact))
    for case in intact + rest:
        data = case.make()
        if len(data) <= MAX_BYTES:
            (folder / case.name).write_bytes(data)


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    warnings.simplefilter("ignore")
    Image.init()
    with tempfile.TemporaryDirectory() as scratch:
        grown, start = (
            Path(sys.argv[2] if len(sys.argv) > 2 else scratch) / "grown",
            Path(scratch) / "seeds",
        )
        grown.mkdir(parents=True, exist_ok=True)
        start.mkdir()
        write_seeds(start)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        options = {
            "max_total_time": seconds,
            "timeout": 20,  # wall-clock seconds until an input counts as a hang
            "rss_limit_mb": MAX_MB + 300,  # the instrumented process alone takes 300
            "max_len": MAX_BYTES,
            "len_control": 0,
            "print_final_stats": 1,
            "verbosity": 1,
        }
        command = [sys.argv[0], *(f"-{name}={value}" for name, value in options.items())]
        atheris.Setup([*command, str(grown), str(start)], decode)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

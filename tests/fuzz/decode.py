"""Pictures that nobody ever drew, led by what they reach in the decoder: `scripts/fuzz SECONDS [FOLDER]`.

Pillow's Python and the contract are instrumented. The codecs' C is not: they get mutations without
guidance. A finding is any exception but ImageError and MemoryError, 2 s of processor time, 512 MB, a crash,
a hang; it is written to the current folder as crash-*, oom-* or timeout-*, and the exit code is not 0.
FOLDER keeps what was found to lead further, to go on from there.
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
SEEDS = 400
LONGEST = 200_000  # bytes


def decode(data: bytes) -> None:
    """Raises what is a finding."""
    recipe = TORCHVISION_RECIPE if len(data) % 4 == 0 else DEFAULT_RECIPE
    began = time.process_time()
    with contextlib.suppress(ImageError, MemoryError):
        decode_crops(data, recipe, MAX_PIXELS, 10 if len(data) % 8 == 1 else 1)
    spent = time.process_time() - began
    if spent > MAX_S:
        raise TimeoutError(f"{spent:.1f} s")


def seeds(folder: Path) -> None:
    """Sound files first, then what is broken, odd and deceitful in little space."""
    quick = [case for case in cases() if not case.large and not case.name.startswith("bomb-")]
    sound = [case for case in quick if case.name.startswith(("sound-", "mode-"))]
    rest = random.Random(0).sample(quick, SEEDS - len(sound))
    for case in sound + rest:
        data = case.make()
        if len(data) <= LONGEST:
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
        seeds(start)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        options = {
            "max_total_time": seconds,
            "timeout": 20,  # by the clock, for what hangs
            "rss_limit_mb": MAX_MB + 300,  # the instrumented process itself takes 300
            "max_len": LONGEST,
            "len_control": 0,
            "print_final_stats": 1,
            "verbosity": 1,
        }
        command = [sys.argv[0], *(f"-{name}={value}" for name, value in options.items())]
        atheris.Setup([*command, str(grown), str(start)], decode)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

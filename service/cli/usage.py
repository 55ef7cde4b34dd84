"""What serving says to arguments, of which it takes none: its settings are environment variables.

Nothing here needs a package, so that scripts/serve can say it before anything is installed.
"""

import os
import re
import shlex
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from service.cli.settings_help import SETTINGS, SWITCHES

PICTURES: Final = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jpeg",
    ".jpg",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)
NAMES: Final = {*re.findall(r"^  ([A-Z0-9_]+)$", SETTINGS, re.M), "EXTRAS"}
SHORT: Final = {"P": "PORT"}  # as -p, which many servers have

HELP: Final = """usage: [NAME=VALUE ...] {serve}

Serves the models of the folder `models` on http://127.0.0.1:8000 until Ctrl-C. It takes no arguments: its
settings are environment variables.

  PORT=9000 {serve}                  on another port
  MODEL=models/mine.onnx {serve}     one model file

To answer about picture files, without a server or by one: {predict} photo.jpg (--help has more)

settings:
{settings}"""


def typed(default: str) -> str:
    """The command that the user typed, which the scripts pass on."""
    return os.environ.get("ALEXNET_COMMAND") or default


def explain(arguments: Sequence[str]) -> int:
    """Print the help, or what was meant by `arguments` and how to write it. -> the exit code"""
    serve = typed("python -m service")
    predict = serve.removesuffix("serve") + "predict" if serve.endswith("/serve") else f"{serve} predict"
    if {"-h", "--help"} & set(arguments) or list(arguments) == ["help"]:
        print(HELP.format(serve=serve, predict=predict, settings=SETTINGS), end="")
        return 0
    print(f"error: {_meant(deque(arguments), serve, predict)}", file=sys.stderr)
    return 2


def _meant(arguments: deque[str], serve: str, predict: str) -> str:
    """One line that says what to write instead of `arguments`."""
    # Those that are no option and no option's value
    bare = [each for before, each in zip(["", *arguments], arguments, strict=False) if before[:1] != "-"]
    if runs := [each for each in bare if _is_a_run(each)]:
        folder = serve.removesuffix("serve") if serve.endswith("/serve") else "scripts/"
        return f"export it first: {folder}training export {shlex.quote(runs[0])} --out models/NAME.onnx"
    if any(_is_for_predict(each) for each in bare):
        files = shlex.join(argument for argument in arguments if argument != "predict")
        return f"serving takes no pictures; this answers about them: {predict} {files}".rstrip()
    wanted: list[tuple[str, str]] = []
    while arguments:
        argument = arguments.popleft()
        option, equals, value = argument.partition("=")
        name = option.lstrip("-").replace("-", "_").upper()
        name = SHORT.get(name, name) if option.startswith("-") else name
        if name in NAMES and (equals or option.startswith("-")):
            if not equals and arguments and not arguments[0].startswith("-"):
                value = arguments.popleft()
            value = value or ("1" if name in SWITCHES else "VALUE")
        elif argument.startswith("-"):
            return f"there is no option {argument}; the settings are environment variables: {serve} --help"
        elif argument.isdecimal():
            name, value = "PORT", argument
        elif argument.endswith(".onnx") or Path(argument).is_file():
            name, value = "MODEL", argument
        elif Path(argument).is_dir():
            name, value = "MODELS", argument
        else:
            return f"there is no command or file {argument!r}; what there is: {serve} --help"
        wanted.append((name, value))
    models = [value for name, value in wanted if name == "MODEL"]
    if len(models) > 1:  # models/*.onnx
        wanted = [("MODELS", str(Path(models[0]).parent)), *(w for w in wanted if w[0] != "MODEL")]
    line = " ".join(f"{name}={shlex.quote(value)}" for name, value in wanted)
    return f"settings are environment variables; write: {line} {serve}"


def _is_a_run(argument: str) -> bool:
    """Whether it is a checkpoint, or a folder with some."""
    path = Path(argument)
    return path.suffix in {".pt", ".pth"} or (path.is_dir() and any(path.glob("*.pt")))


def _is_for_predict(argument: str) -> bool:
    """Whether it is a picture, or a folder that has no models."""
    path = Path(argument)
    folder = path.is_dir() and not any(path.glob("*.onnx")) and not any(path.glob("*/*/*.onnx"))
    return argument == "predict" or path.suffix.lower() in PICTURES or folder

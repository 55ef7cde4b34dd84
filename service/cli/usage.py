"""Help, and errors for arguments, of python -m service, whose settings are environment variables.

Its settings are environment variables. This module uses the standard library only, so that scripts/serve
can print the messages before anything is installed.
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
SETTING_NAMES: Final = {*re.findall(r"^  ([A-Z0-9_]+)$", SETTINGS, re.M), "EXTRAS"}
SHORT_OPTIONS: Final = {"P": "PORT"}  # -p is common among servers

HELP: Final = """usage: [NAME=VALUE ...] {serve}

Serves the models of the folder `models` on http://127.0.0.1:8000 until Ctrl-C. It takes no arguments: its
settings are environment variables.

  PORT=9000 {serve}                  on another port
  MODEL=models/mine.onnx {serve}     one model file

To classify picture files, locally or with a server: {predict} photo.jpg (--help has more)

settings:
{settings}"""


def command_name(default: str) -> str:
    """Return the command that the user typed, which the scripts pass in ALEXNET_COMMAND."""
    return os.environ.get("ALEXNET_COMMAND") or default


def explain(arguments: Sequence[str]) -> int:
    """Print the help, or an error that suggests the right command; return the exit code."""
    serve = command_name("python -m service")
    predict = serve.removesuffix("serve") + "predict" if serve.endswith("/serve") else f"{serve} predict"
    if {"-h", "--help"} & set(arguments) or list(arguments) == ["help"]:
        print(HELP.format(serve=serve, predict=predict, settings=SETTINGS), end="")
        return 0
    print(f"error: {_suggestion(deque(arguments), serve, predict)}", file=sys.stderr)
    return 2


def _suggestion(arguments: deque[str], serve: str, predict: str) -> str:
    """Return one line that says what to write instead of `arguments`."""
    # Arguments that follow no option, and so may be files
    names = [name for before, name in zip(["", *arguments], arguments, strict=False) if before[:1] != "-"]
    if runs := [name for name in names if _is_a_run(name)]:
        folder = serve.removesuffix("serve") if serve.endswith("/serve") else "scripts/"
        return f"export it first: {folder}training export {shlex.quote(runs[0])} --out models/NAME.onnx"
    if any(_is_for_predict(name) for name in names):
        files = shlex.join(argument for argument in arguments if argument != "predict")
        return f"the server takes no picture files; to classify them: {predict} {files}".rstrip()
    variables: list[tuple[str, str]] = []
    while arguments:
        argument = arguments.popleft()
        option, equals, value = argument.partition("=")
        name = option.lstrip("-").replace("-", "_").upper()
        name = SHORT_OPTIONS.get(name, name) if option.startswith("-") else name
        if name in SETTING_NAMES and (equals or option.startswith("-")):
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
            return f"there is no command or file {argument!r}; see {serve} --help"
        variables.append((name, value))
    models = [value for name, value in variables if name == "MODEL"]
    if len(models) > 1:  # models/*.onnx
        variables = [
            ("MODELS", str(Path(models[0]).parent)),
            *(variable for variable in variables if variable[0] != "MODEL"),
        ]
    line = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables)
    return f"settings are environment variables; write: {line} {serve}"


def _is_a_run(argument: str) -> bool:
    """Return whether a path is a checkpoint, or a folder with checkpoints."""
    path = Path(argument)
    return path.suffix in {".pt", ".pth"} or (path.is_dir() and any(path.glob("*.pt")))


def _is_for_predict(argument: str) -> bool:
    """Return whether an argument is meant for `predict`: a picture, or a folder without models."""
    path = Path(argument)
    folder = path.is_dir() and not any(path.glob("*.onnx")) and not any(path.glob("*/*/*.onnx"))
    return argument == "predict" or path.suffix.lower() in PICTURES or folder

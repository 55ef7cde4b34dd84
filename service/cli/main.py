"""The command `python -m service predict`: classify files and print the results."""

import argparse
import asyncio
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TextIO

from alexnet_client.schemas import Problem
from contract.trust import MAX_COVERAGE, MIN_COVERAGE
from service.cli.inputs import find_files
from service.cli.output import FORMATS, Progress
from service.cli.predict import (
    MAX_SERVER_REQUESTS,
    PredictionFailed,
    PredictOptions,
    UsageError,
    find_models,
    local_engine,
    predict_files,
    remote_server,
)
from service.cli.usage import command_name
from service.errors import ModelError
from service.observability import logs
from service.settings import Settings, SettingsError

EPILOG = """Settings such as MODELS, MODEL, DEVICE, THREADS and MAX_PIXELS are environment variables, as for
the service. Exit codes: 0; 1 if a picture or everything failed, or with --require-known if a picture is
unknown; 2 if the command line or a setting is invalid."""


def parser() -> argparse.ArgumentParser:
    """Create the parser of the arguments after `predict`."""
    predict = argparse.ArgumentParser(
        prog=command_name("python -m service predict"),
        description="Classify files as POST /predict does; print each result when it is ready, in order.",
        epilog=EPILOG,
    )
    add = predict.add_argument
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="a file, a folder, a pattern such as 'a/**/*.jpg', or - (stdin)",
    )
    add(
        "--server",
        type=_url,
        metavar="URL",
        help="send the files to this server instead of running the model locally",
    )
    add("--key-file", type=Path, metavar="FILE", help="file with the API key for --server")
    add(
        "--model",
        metavar="FILE|NAME",
        help="a model file, or the name of a model in MODELS or on the server",
    )
    add("--top-k", type=_positive, metavar="K", help="labels per picture (default: 5)")
    add("--crops", type=int, choices=(1, 10), default=1, help="10: the mean over the paper's ten crops")
    add(
        "--coverage",
        type=_number(MIN_COVERAGE, MAX_COVERAGE),
        metavar="C",
        help=f"also print the prediction set with this coverage, {MIN_COVERAGE} to {MAX_COVERAGE}",
    )
    add(
        "--unknown-above",
        type=_number(0, 1),
        metavar="U",
        help="highest unfamiliarity of a known picture, 0 to 1 (default: the limit of the model's file)",
    )
    add("--require-known", action="store_true", help="exit with 1 if a picture is unknown")
    add("--format", choices=list(FORMATS), default="table", help="(default: table)")
    return predict


def main(arguments: Sequence[str]) -> int:
    """Run the arguments after `predict`; return the exit code."""
    options = parser().parse_args(arguments)  # exits with 2
    logs.configure("text")
    logs.log.setLevel(logging.ERROR)  # the warning that the CPU is used is for servers
    try:
        return asyncio.run(_predict(options, sys.stdout, sys.stderr))
    except (UsageError, SettingsError) as error:
        return _print_error(str(error), 2)
    except (PredictionFailed, ModelError) as error:
        return _print_error(str(error), 1)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1


async def _predict(options: argparse.Namespace, out: TextIO, errors: TextIO) -> int:
    settings = Settings.from_environ()
    files = find_files(options.files)
    asked = PredictOptions(
        options.top_k, options.crops, options.coverage, options.unknown_above, options.require_known
    )
    if options.server is None:
        if options.key_file is not None:
            raise UsageError("--key-file needs --server")
        models = find_models(settings, options.model)
        backend = local_engine(settings, models, asked)
        concurrency = max(2, 2 * settings.max_batch // options.crops)
        max_bytes = settings.max_body_bytes
    else:
        key = _read_key(options.key_file) if options.key_file else None
        backend = remote_server(options.server, key, options.model, asked)
        concurrency, max_bytes = MAX_SERVER_REQUESTS, None
    # File names may be any bytes; print them unchanged.
    out.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[attr-defined]
    failed = unknown = 0
    async with (
        backend as predict,
        aclosing(predict_files(files, predict, concurrency, max_bytes)) as results,
    ):
        write = FORMATS[options.format](out, [file.name for file in files])
        with Progress(errors, len(files)) as progress:
            async for file, result in results:
                progress.clear()
                write(file.name, result)
                progress.step()
                if isinstance(result, Problem):
                    failed += 1
                elif result.known is False:
                    unknown += 1
    code = 0
    if failed:
        code = _print_error(f"{failed} of {len(files)} failed", 1)
    if unknown and options.require_known:
        code = _print_error(f"{unknown} of {len(files)} unknown", 1)
    return code


def _read_key(path: Path) -> str:
    try:
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--key-file {path} cannot be read: {error}") from None
    if not key or not key.isascii() or len(key.split()) != 1:
        raise UsageError(f"--key-file {path} must contain one API key and nothing else")
    return key


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL; write http://HOST:PORT")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _number(low: float, high: float) -> Callable[[str], float]:
    """Create the type of an argument that is a number from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return value

    return parse


def _print_error(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code

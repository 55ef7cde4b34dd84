"""The command `python -m service predict`: classify files and print the results."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TextIO

from alexnet_client.schemas import Problem
from service.cli.inputs import find_files
from service.cli.output import FORMATS, Progress
from service.cli.predict import (
    MAX_SERVER_REQUESTS,
    PredictionFailed,
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
the service. Exit codes: 0; 1 if a picture or everything failed; 2 if the command line or a setting is
invalid."""


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
    if options.server is None:
        if options.key_file is not None:
            raise UsageError("--key-file needs --server")
        models = find_models(settings, options.model)
        backend = local_engine(settings, models, options.top_k, options.crops)
        concurrency = max(2, 2 * settings.max_batch // options.crops)
        max_bytes = settings.max_body_bytes
    else:
        key = _read_key(options.key_file) if options.key_file else None
        backend = remote_server(options.server, key, options.model, options.top_k, options.crops)
        concurrency, max_bytes = MAX_SERVER_REQUESTS, None
    # File names may be any bytes; print them unchanged.
    out.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[attr-defined]
    failed = 0
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
                failed += isinstance(result, Problem)
    if failed:
        return _print_error(f"{failed} of {len(files)} failed", 1)
    return 0


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


def _print_error(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code

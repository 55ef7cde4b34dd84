"""The command `python -m service predict`: answers about files."""

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
from service.cli.inputs import named
from service.cli.output import FORMATS, Progress
from service.cli.predict import SERVER_AT_ONCE, Failed, Usage, answers, by_server, find_models, here
from service.cli.usage import typed
from service.errors import ModelError
from service.observability import logs
from service.settings import Settings, SettingsError

EPILOG = """The service's settings that apply (MODELS, MODEL, DEVICE, THREADS, MAX_PIXELS and more) are
environment variables here too. Exit codes: 0; 1 when a picture or everything failed; 2 when the command
cannot be carried out."""


def parser() -> argparse.ArgumentParser:
    predict = argparse.ArgumentParser(
        prog=typed("python -m service predict"),
        description="The answers of POST /predict about files, as they come, in the order of the files.",
        epilog=EPILOG,
    )
    add = predict.add_argument
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="a file, a folder, a pattern such as 'a/**/*.jpg', or - (stdin)",
    )
    add("--server", type=_url, metavar="URL", help="ask this server; otherwise the model is run here")
    add("--key-file", type=Path, metavar="FILE", help="the API key for that server")
    add(
        "--model", metavar="FILE|NAME", help="a model file, or the name of one in MODELS or of the server's"
    )
    add("--top-k", type=_positive, metavar="K", help="labels for each picture (default: 5)")
    add("--crops", type=int, choices=(1, 10), default=1, help="10: the mean of the paper's ten crops")
    add("--format", choices=list(FORMATS), default="table", help="(default: table)")
    return predict


def main(arguments: Sequence[str]) -> int:
    """Carry out what follows `predict`. -> the exit code"""
    options = parser().parse_args(arguments)  # exits with 2
    logs.configure("text")
    logs.log.setLevel(logging.ERROR)  # that this is the CPU is no news here
    try:
        return asyncio.run(_predict(options, sys.stdout, sys.stderr))
    except (Usage, SettingsError) as error:
        return _say(str(error), 2)
    except (Failed, ModelError) as error:
        return _say(str(error), 1)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1


async def _predict(options: argparse.Namespace, out: TextIO, errors: TextIO) -> int:
    settings = Settings.from_environ()
    files = named(options.files)
    if options.server is None:
        if options.key_file is not None:
            raise Usage("--key-file is for a server; give --server too")
        found = find_models(settings, options.model)
        asking = here(settings, found, options.top_k, options.crops)
        at_once, limit = max(2, 2 * settings.max_batch // options.crops), settings.max_body_bytes
    else:
        key = _key(options.key_file) if options.key_file else None
        asking = by_server(options.server, key, options.model, options.top_k, options.crops)
        at_once, limit = SERVER_AT_ONCE, None
    # Names of files may be any bytes; they leave as they came.
    out.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[attr-defined]
    failed = 0
    async with asking as ask, aclosing(answers(files, ask, at_once, limit)) as stream:
        write = FORMATS[options.format](out, [file.name for file in files])
        with Progress(errors, len(files)) as progress:
            async for file, answer in stream:
                progress.clear()
                write(file.name, answer)
                progress.step()
                failed += isinstance(answer, Problem)
    if failed:
        return _say(f"{failed} of {len(files)} failed", 1)
    return 0


def _key(path: Path) -> str:
    try:
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Usage(f"--key-file {path} cannot be read: {error}") from None
    if not key or not key.isascii() or len(key.split()) != 1:
        raise Usage(f"--key-file {path} must have one API key and nothing else")
    return key


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no URL; write http://HOST:PORT")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _say(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code

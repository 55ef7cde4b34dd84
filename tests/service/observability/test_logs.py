"""Text from untrusted clients cannot control a terminal, forge a log line or fill the log."""

import json
import logging
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from service.observability.logs import MAX_TEXT, JsonFormatter, TextFormatter
from tests.support.eventually import eventually
from tests.support.serving.raw_http import ANSWER_TIMEOUT_S, request
from tests.support.serving.server import COMMAND, environ

UNSAFE = "\x00\x07\x08\x1b\r\x7f\x80\x9b\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\ud800"


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("alexnet", logging.ERROR, "", 0, message, (), info)


def test_unsafe_characters_are_escaped() -> None:
    plain, line = (
        TextFormatter().format(record(f"a{UNSAFE}ü\nERROR b")),
        JsonFormatter().format(record(UNSAFE)),
    )
    for character in UNSAFE:
        assert character not in plain
        assert character not in line
    assert plain.startswith("ERROR a\\u0000\\u0007")
    assert "ü" in plain
    assert "\n" not in plain
    assert json.loads(line)["message"] == UNSAFE


def test_traceback_lines_are_indented() -> None:
    try:
        raise ValueError(f"a\nERROR b{UNSAFE}")
    except ValueError as error:
        text, line = (
            formatter.format(record("m", error)) for formatter in (TextFormatter(), JsonFormatter())
        )
    first, *others = text.split("\n")
    assert first == "ERROR m"
    assert len(others) > 3
    assert all(other.startswith("  ") for other in others)
    assert not [character for character in UNSAFE if character in text]
    assert json.loads(line)["exception"].endswith(f"ValueError: a\nERROR b{UNSAFE}")


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
def test_messages_and_tracebacks_are_truncated(formatter: type[logging.Formatter]) -> None:
    try:
        raise ValueError("b" * 1_000_000)
    except ValueError as error:
        text = formatter().format(record("a" * 1_000_000, error))
    assert 2 * MAX_TEXT < len(text) < 3 * MAX_TEXT


def test_paths_are_escaped_and_truncated(model_file: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    paths = ["/" + quote(character, errors="surrogatepass") for character in UNSAFE] + ["/" + "a" * 50_000]
    settings = environ(model=model_file, log_format="json")
    with (
        log.open("w") as out,
        subprocess.Popen(COMMAND, env=settings, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        try:
            eventually(lambda: " on http://" in log.read_text() or process.poll() is not None)
            assert process.poll() is None
            port = int(log.read_text().split("127.0.0.1:")[1].split()[0])
            for path in paths:
                with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S) as connection:
                    connection.sendall(request("GET", path))
                    assert connection.recv(20).startswith(b"HTTP/1.1 404")
        finally:
            process.terminate()
            process.wait(20)
    lines = log.read_bytes().splitlines()
    assert len(lines) > len(paths)
    assert all(len(line) < 1500 for line in lines)
    for line in lines:
        json.loads(line)
        assert not [character for character in UNSAFE if character.encode("utf-8", "surrogatepass") in line]

"""`python -m service predict` compared with a server, and with --server."""

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving.command import environ, predict, records, refused
from tests.support.serving.server import Server, serving

PICTURES = ["a.jpg", "b.jpg", "c.jpg", "more/deep/d.png", "more/without-suffix"]


@pytest.fixture(scope="module")
def one_by_one(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with batches of 1 on one thread: rounding depends on both."""
    with serving(tmp_path_factory.mktemp("log") / "log", model_file, max_batch=1, threads=1) as server:
        yield server


@pytest.mark.parametrize("query", [{}, {"top_k": 2, "crops": 10}])
def test_results_match_http(
    one_by_one: Server, model_file: Path, photos: Path, query: dict[str, int]
) -> None:
    options = [part for key, value in query.items() for part in (f"--{key.replace('_', '-')}", value)]
    expected = [
        one_by_one.client.post("/predict", params=query, content=(photos / name).read_bytes()).json()
        for name in PICTURES
    ]
    local = predict(photos, *options, "--format", "jsonl", "--model", model_file, MAX_BATCH=1, THREADS=1)
    remote = predict(photos, *options, "--format", "jsonl", "--server", one_by_one.address)
    for done in (local, remote):
        assert (done.returncode, done.stderr) == (1, "error: 1 of 5 failed\n")
        for record, name, body in zip(records(done), PICTURES, expected, strict=True):
            answer = dict(body)
            assert record.pop("file") == str(photos / name)
            assert record.keys() == answer.keys()
            if name == "b.jpg":
                assert record["code"] == "invalid_image"
            else:
                assert record.pop("timing_ms").keys() == answer.pop("timing_ms").keys()
            assert record == answer


def test_invalid_options_are_refused(
    server: Server, model_file: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    arguments = ("a.jpg", "--server", server.address)
    message = "error: top_k is 8; this model has 7 classes\n"
    assert refused(predict("a.jpg", "--model", model_file, "--top-k", 8, cwd=photos)) == (2, message)
    assert refused(predict(*arguments, "--top-k", 8, cwd=photos)) == (2, message)
    assert "there is no model rose" in refused(predict(*arguments, "--model", "rose", cwd=photos))[1]
    assert refused(predict("a.jpg", "--key-file", tmp_path / "empty", cwd=photos))[0] == 2
    assert refused(predict(*arguments, "--key-file", tmp_path / "empty", cwd=photos))[0] == 2
    assert refused(predict(*arguments, "--key-file", tmp_path / "gone", cwd=photos))[0] == 2


def test_unreachable_server(photos: Path) -> None:
    with socket.socket() as silent:  # reserves the port without listening
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, line = refused(predict(photos, "--server", address))
    assert code == 1
    assert line.startswith(f"error: no answer from {address}/predict")


def test_only_the_server_option_needs_httpx(model_file: Path, photos: Path) -> None:
    code = (
        "import sys; sys.modules['httpx'] = None; "
        "from service.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", code, "a.jpg", *arguments]
        return subprocess.run(
            command, cwd=photos, env=environ(), capture_output=True, text=True, check=False
        )

    assert run("--model", str(model_file)).returncode == 0
    assert refused(run("--server", "http://127.0.0.1:9")) == (
        1,
        "error: --server needs httpx: pip install httpx (the extra `client`)\n",
    )


def test_server_with_api_keys(model_file: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "digests").write_text(hashlib.sha256(b"secret").hexdigest() + "\n")
    (tmp_path / "key").write_text("secret\n")
    with serving(tmp_path / "log", model_file, api_keys_file=tmp_path / "digests") as server:
        assert server.process.stdout is not None
        hint = server.process.stdout.readline()
        arguments = ("a.jpg", "--server", server.address)
        assert refused(predict(*arguments, cwd=photos))[0] == 1
        done = predict(*arguments, "--key-file", tmp_path / "key", "--top-k", 1, cwd=photos)
        assert (done.returncode, done.stdout.count("%")) == (0, 1)
        assert hint.startswith('try: curl -H "Authorization: Bearer KEY" -F file=@photo.jpg http://')
        (photos / "photo.jpg").write_bytes((photos / "a.jpg").read_bytes())
        line = hint.removeprefix("try: ").replace("KEY", "secret")
        command = ["bash", "-c", line]
        answer = subprocess.run(command, cwd=photos, capture_output=True, check=True).stdout
    assert len(json.loads(answer)["predictions"]) == 5

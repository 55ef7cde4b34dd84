"""`python -m service predict` with a model that has trust, locally and with --server."""

from pathlib import Path

import pytest

from service.cli.main import parser
from tests.support.serving.command import predict, records, refused
from tests.support.serving.images import colour, plain
from tests.support.serving.server import Server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that is known, one that is not, and none."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "a.png").write_bytes(colour(200, 0, 0))
    (folder / "b.png").write_bytes(plain(250))
    (folder / "c.png").write_bytes(b"no image")
    return folder


@pytest.fixture(params=["local", "server"])
def backend(request: pytest.FixtureRequest, trusted: Server, trusted_models: Path) -> list[object]:
    """The arguments for the model with trust, as a file and on a server."""
    if request.param == "server":
        return ["--server", trusted.address]
    return ["--model", trusted_models / "trusted.onnx"]


def test_require_known_fails_with_the_number_of_unknown_pictures(
    folder: Path, backend: list[object]
) -> None:
    done = predict(".", "--require-known", *backend, "--format", "jsonl", "--coverage", 0.9, cwd=folder)
    assert (done.returncode, done.stderr) == (1, "error: 1 of 3 failed\nerror: 1 of 3 unknown\n")
    known, unknown, broken = records(done)
    assert (known["known"], known["set"]) == (True, ["red"])
    assert (unknown["known"], unknown["set"], broken["status"]) == (False, [], 415)

    done = predict("a.png", "b.png", "--require-known", "--unknown-above", 1, *backend, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_unknown_pictures_alone_are_no_failure(folder: Path, trusted_models: Path) -> None:
    done = predict("b.png", "--model", trusted_models / "trusted.onnx", "--top-k", 1, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "b.png   unknown  unfamiliarity 0.98; most like:\n        33.33 %  red\n"


def test_options_that_the_model_cannot_meet(folder: Path, trusted: Server, trusted_models: Path) -> None:
    local = ["a.png", "--model", trusted_models / "untested.onnx"]
    message = "error: the file of model untested has no unfamiliarity, so no picture is known; "
    code, line = refused(predict(*local, "--require-known", cwd=folder))
    assert (code, line) == (2, message + "leave out --require-known\n")
    code, line = refused(predict(*local, "--coverage", 0.9, cwd=folder))
    assert (code, "coverage is 0.9; the file of model untested has no section trust" in line) == (2, True)

    remote = ["a.png", "--server", trusted.address, "--model", "untested"]
    code, line = refused(predict(*remote, "--require-known", cwd=folder))
    assert code == 1
    assert f"the responses of {trusted.address} have no `known`" in line


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--coverage", "0.4"), "'0.4' is not a number from 0.5 to 0.99"),
        (("--coverage", "nan"), "'nan' is not a number from 0.5 to 0.99"),
        (("--unknown-above", "1.5"), "'1.5' is not a number from 0 to 1"),
        (("--unknown-above", "x"), "'x' is not a number from 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    option: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parser().parse_args(["a.png", *option])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err

"""What others may have put into MODELS: odd names, links, pipes, cards that are none."""

import os
import shutil
import signal
import unicodedata
from pathlib import Path

import pytest

from service.errors import ModelError
from service.models.discovery import escape_name, model_locations
from service.models.loading import read, read_all
from service.models.session import MAX_CARD_BYTES, Model, load_model
from service.settings import Settings
from tests.support.eventually import eventually
from tests.support.serving.images import plain
from tests.support.serving.server import refused, serving


def load(path: Path) -> Model:
    return load_model(path, "cpu", 1)


def states(folder: Path) -> dict[str, str | None]:
    """Read every model: the name as it is shown -> why it is not served."""
    settings = Settings(models=folder)
    return {
        location.name or "": read(location, load).error or None
        for location in sorted(model_locations(settings), key=lambda location: location.name or "")
    }


ODD_NAMES = {
    b"caf\xe9": r"caf\xe9",
    b"a\xff\xfeb": r"a\xff\xfeb",
    b"line\nbreak": r"line\nbreak",
    b"\x1b[31mred": r"\x1b[31mred",
    b"del\x7f": r"del\x7f",
    "r\u202egnp".encode(): r"r\u202egnp",
    "two\u2028lines".encode(): r"two\u2028lines",
    b"\xed\xa0\x80": r"\xed\xa0\x80",
}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_is_not_plain_text_is_not_served_and_shown_escaped(
    name: bytes, model_file: Path, tmp_path: Path
) -> None:
    shutil.copy(model_file, tmp_path / "good.onnx")
    shutil.copy(model_file, tmp_path / os.fsdecode(name + b".onnx"))
    folder = tmp_path / os.fsdecode(name) / "7"
    folder.mkdir(parents=True)
    shutil.copy(model_file, folder / "model.onnx")
    found = states(tmp_path)
    assert found.keys() == {"good", ODD_NAMES[name]}
    assert found["good"] is None
    assert f"'{ODD_NAMES[name]}' is not plain text in UTF-8" in str(found[ODD_NAMES[name]])


@pytest.mark.parametrize(
    "name", ["a b", "50%", "it's", 'say "a"', "a\\b", "Löwenzahn", "ひまわり", "-", "x" * 250]
)
def test_other_names_are_served(name: str, model_file: Path, tmp_path: Path) -> None:
    shutil.copy(model_file, tmp_path / f"{name}.onnx")
    assert states(tmp_path) == {name: None}
    assert escape_name(name) == name


def test_a_server_answers_beside_a_name_that_is_not_utf8(model_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(model_file, folder / "good.onnx")
    bad = folder / os.fsdecode(b"bad\xff.onnx")
    with serving(tmp_path / "log", None, models=folder) as server:
        shutil.copy(model_file, bad)
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(server.client.get("/health").json()["models"]) == 2)
        models = server.client.get("/health").json()["models"]
        assert [(m["name"], m["state"]) for m in models] == [(r"bad\xff", "UNAVAILABLE"), ("good", "READY")]
        for path in ("/health", "/models", "/metrics", "/v2/models/good"):
            assert server.client.get(path).status_code == 200, path
        assert server.client.post("/v2/repository/index").status_code == 200
        assert server.client.post("/predict", content=plain(1)).status_code == 200
        assert server.client.get(r"/v2/models/bad%5Cxff").status_code == 503
        assert r"bad\xff" in server.log


def test_a_model_of_a_name_that_is_not_utf8_is_refused_at_the_start(
    model_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(b"bad\xff.onnx")
    shutil.copy(model_file, path)
    code, line = refused(model=path)
    assert (code, r"MODEL is a file named 'bad\xff.onnx'" in line) == (1, True)


def test_names_that_are_equal_in_normal_form_are_twins(model_file: Path, tmp_path: Path) -> None:
    for name in (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")):
        shutil.copy(model_file, tmp_path / f"{name}.onnx")
    assert [location.name for location in model_locations(Settings(models=tmp_path))] == ["é", "é"]


def test_versions_are_written_in_ascii_digits(model_file: Path, tmp_path: Path) -> None:
    for version in ("1", "٣", "0", "-1", "1.5", "9" * 200, "²"):
        (tmp_path / "a" / version).mkdir(parents=True)
        shutil.copy(model_file, tmp_path / "a" / version / "model.onnx")
    assert [location.version for location in model_locations(Settings(models=tmp_path))] == [1]


def test_what_is_no_file_is_not_waited_for(model_file: Path, tmp_path: Path) -> None:
    shutil.copy(model_file, tmp_path / "good.onnx")
    shutil.copy(model_file, tmp_path / "unreadable.onnx")
    (tmp_path / "unreadable.onnx").chmod(0)
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    (tmp_path / "lost.onnx").symlink_to("nowhere")
    (tmp_path / "link.onnx").symlink_to("good.onnx")
    (tmp_path / "huge.onnx").touch()
    os.truncate(tmp_path / "huge.onnx", 2**40)
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "1").symlink_to("../circle")
    found = states(tmp_path)
    assert found["good"] is found["link"] is None
    for name in ("pipe", "folder", "zero"):
        assert "not a regular file" in str(found[name]), name
    assert "symbolic links" in str(found["loop"])
    assert "no model file lost.onnx" in str(found["lost"])
    assert "2,147,483,647 are allowed" in str(found["huge"])
    if os.geteuid():
        assert "Permission denied" in str(found["unreadable"])


def test_a_card_is_a_small_plain_file(
    model_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, card, secret = tmp_path / "a.onnx", tmp_path / "a.md", tmp_path / "secret"
    shutil.copy(model_file, model)
    secret.write_text("a secret")
    assert load(model).card is None

    card.write_bytes(b"caf\xe9 \xed\xa0\x80")
    shown = load(model).card
    assert shown is not None
    assert shown.encode().startswith("caf\ufffd".encode())

    def refusal() -> str:
        caplog.clear()
        assert load(model).card is None
        return caplog.text

    card.write_bytes(b"x" * MAX_CARD_BYTES)
    assert load(model).card == "x" * MAX_CARD_BYTES
    card.write_bytes(b"x" * (MAX_CARD_BYTES + 1))
    assert "the card a.md is not shown: it has 100,001 bytes" in refusal()
    for target in (secret, "secret", "/etc/passwd", "/dev/zero", "a.md", "nowhere"):
        card.unlink()
        card.symlink_to(target)
        assert "the card a.md is not shown: it is a symbolic link" in refusal()
    card.unlink()
    os.mkfifo(card)
    assert "it is not a regular file" in refusal()
    card.unlink()
    card.mkdir()
    assert "it is not a regular file" in refusal()


def test_outputs_that_the_network_lacks_are_refused(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    data = model_file.read_bytes()
    assert data.count(b'"name": "fc7"') == 1
    path.write_bytes(data.replace(b'"name": "fc7"', b'"name": "fc9"'))
    with pytest.raises(ModelError, match=r"its manifest lists the output 'fc9', which it lacks"):
        load(path)


def test_a_folder_of_odd_names_alone_serves_nothing(model_file: Path, tmp_path: Path) -> None:
    shutil.copy(model_file, tmp_path / os.fsdecode(b"bad\xff.onnx"))
    with pytest.raises(ModelError, match=r"'bad\\xff' is not plain text"):
        read_all(Settings(models=tmp_path), load)

"""Tests of odd contents of MODELS: names, links, pipes, model cards that are no plain files."""

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
    """Read every model; return by its displayed name why it is not served, or None."""
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
def test_name_that_is_not_plain_text_is_refused_and_escaped(
    name: bytes, model_file: Path, tmp_path: Path
) -> None:
    shutil.copy(model_file, tmp_path / "good.onnx")
    shutil.copy(model_file, tmp_path / os.fsdecode(name + b".onnx"))
    folder = tmp_path / os.fsdecode(name) / "7"
    folder.mkdir(parents=True)
    shutil.copy(model_file, folder / "model.onnx")
    errors = states(tmp_path)
    assert errors.keys() == {"good", ODD_NAMES[name]}
    assert errors["good"] is None
    assert f"'{ODD_NAMES[name]}' is not plain text in UTF-8" in str(errors[ODD_NAMES[name]])


@pytest.mark.parametrize(
    "name", ["a b", "50%", "it's", 'say "a"', "a\\b", "Löwenzahn", "ひまわり", "-", "x" * 250]
)
def test_unusual_plain_names_are_served(name: str, model_file: Path, tmp_path: Path) -> None:
    shutil.copy(model_file, tmp_path / f"{name}.onnx")
    assert states(tmp_path) == {name: None}
    assert escape_name(name) == name


def test_server_serves_other_models_beside_a_non_utf8_name(model_file: Path, tmp_path: Path) -> None:
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


def test_model_setting_with_a_non_utf8_name_is_refused(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"bad\xff.onnx")
    shutil.copy(model_file, path)
    code, line = refused(model=path)
    assert (code, r"MODEL is a file named 'bad\xff.onnx'" in line) == (1, True)


def test_names_equal_in_normal_form_are_the_same(model_file: Path, tmp_path: Path) -> None:
    for name in (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")):
        shutil.copy(model_file, tmp_path / f"{name}.onnx")
    assert [location.name for location in model_locations(Settings(models=tmp_path))] == ["é", "é"]


def test_versions_are_ascii_digits(model_file: Path, tmp_path: Path) -> None:
    for version in ("1", "٣", "0", "-1", "1.5", "9" * 200, "²"):
        (tmp_path / "a" / version).mkdir(parents=True)
        shutil.copy(model_file, tmp_path / "a" / version / "model.onnx")
    assert [location.version for location in model_locations(Settings(models=tmp_path))] == [1]


def test_pipes_links_and_devices_do_not_block(model_file: Path, tmp_path: Path) -> None:
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
    errors = states(tmp_path)
    assert errors["good"] is errors["link"] is None
    for name in ("pipe", "folder", "zero"):
        assert "not a regular file" in str(errors[name]), name
    assert "symbolic links" in str(errors["loop"])
    assert "no model file lost.onnx" in str(errors["lost"])
    assert "2,147,483,647 are allowed" in str(errors["huge"])
    if os.geteuid():
        assert "Permission denied" in str(errors["unreadable"])


def test_model_card_must_be_a_small_regular_file(
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


def test_manifest_with_missing_outputs_is_refused(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    data = model_file.read_bytes()
    assert data.count(b'"name": "fc7"') == 1
    path.write_bytes(data.replace(b'"name": "fc7"', b'"name": "fc9"'))
    with pytest.raises(ModelError, match=r"its manifest lists the output 'fc9', which it lacks"):
        load(path)


def test_folder_of_only_refused_names_is_an_error(model_file: Path, tmp_path: Path) -> None:
    shutil.copy(model_file, tmp_path / os.fsdecode(b"bad\xff.onnx"))
    with pytest.raises(ModelError, match=r"'bad\\xff' is not plain text"):
        read_all(Settings(models=tmp_path), load)

"""Tests of several models by name and version; broken ones do not affect the others."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.models.small_models import replace_with_version
from tests.support.serving.images import encoded, noise, plain
from tests.support.serving.responses import check
from tests.support.serving.server import Server, refused, serving

PHOTO = encoded(noise(3))


@pytest.fixture
def folder(model_file: Path, fragile_model: Path, tmp_path: Path) -> Path:
    return filled(tmp_path / "models", model_file, fragile_model)


def filled(models: Path, model_file: Path, fragile_model: Path) -> Path:
    """flowers.onnx of version 3, versions 4 and 12 of it, tones.onnx, a broken file and one in no place."""
    models.mkdir()
    shutil.copy(model_file, models / "flowers.onnx")
    shutil.copy(fragile_model, models / "tones.onnx")
    (models / "broken.onnx").write_bytes(model_file.read_bytes()[:5000])
    for version in (4, 12):
        (models / "flowers" / str(version)).mkdir(parents=True)
        shutil.copy(model_file, models / "flowers" / str(version) / "model.onnx")
    (models / "flowers" / "draft").mkdir()
    shutil.copy(model_file, models / "flowers" / "draft" / "model.onnx")
    return models


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "log", None, models=folder) as running:
        yield running


@pytest.fixture(scope="module")
def unchanged(
    model_file: Path, fragile_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The same, for tests that only ask."""
    place = tmp_path_factory.mktemp("unchanged")
    with serving(
        place / "log", None, models=filled(place / "models", model_file, fragile_model)
    ) as running:
        yield running


def version_of(server: Server, **query: object) -> object:
    params = {key: str(value) for key, value in query.items()}
    return server.client.post("/predict", params=params, content=PHOTO).json()["model"]["version"]


def test_by_name_the_newest_unless_a_version_is_named(unchanged: Server) -> None:
    assert version_of(unchanged, model="flowers") == 12
    assert version_of(unchanged, model="flowers", version=4) == 4
    assert version_of(unchanged, model="flowers", version=3) == 3, "the manifest's, where no folder says it"
    served = [(entry["name"], entry["version"]) for entry in unchanged.client.get("/models").json()]
    assert served == [("flowers", 12), ("flowers", 4), ("flowers", 3), ("tones", 1)]


def test_what_is_not_there_or_not_named(unchanged: Server) -> None:
    post = unchanged.client.post
    for path in ("/predict", "/embed", "/explain"):
        parts = ("?model=", "DEFAULT_MODEL", "flowers, tones")
        check(post(path, content=PHOTO), 422, "invalid_request", *parts)
    check(post("/predict?model=cats", content=PHOTO), 404, "not_found", "cats", "flowers version 12")
    check(post("/predict?model=flowers&version=5", content=PHOTO), 404, "not_found", "version 5")
    check(post("/predict?model=broken", content=PHOTO), 503, "not_ready", "broken.onnx")


def test_a_broken_one_is_named_and_the_others_serve(unchanged: Server) -> None:
    health = unchanged.client.get("/health").json()
    states = {(m["name"], m["version"]): m["state"] for m in health["models"]}
    assert states == {
        ("broken", None): "UNAVAILABLE",
        ("flowers", 12): "READY",
        ("flowers", 4): "READY",
        ("flowers", 3): "READY",
        ("tones", 1): "READY",
    }
    assert "broken.onnx" in health["reload_error"]
    assert "broken.onnx" in unchanged.log


def test_signal_loads_new_models_and_refuses_duplicates(
    server: Server, folder: Path, model_file: Path
) -> None:
    replace_with_version(model_file, folder / "flowers.onnx", 4)  # there is a version 4
    replace_with_version(model_file, folder / "fresh.onnx", 7)
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "fresh" in {m["name"] for m in server.client.get("/health").json()["models"]})
    assert version_of(server, model="fresh") == 7
    assert version_of(server, model="flowers", version=3) == 3, "the loaded one is still served"
    errors = [m["error"] for m in server.client.get("/health").json()["models"] if m["version"] == 3]
    assert "version 4" in errors[0]


def test_removed_file_is_forgotten_beside_others(server: Server, folder: Path) -> None:
    assert server.client.post("/predict?model=tones", content=plain(1)).status_code == 200
    (folder / "tones.onnx").unlink()
    (folder / "broken.onnx").unlink()
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.client.get("/health").json()["reload_error"] is None)
    gone = server.client.post("/predict?model=tones", content=plain(1))
    check(gone, 404, "not_found", "no model tones", "?model=", "flowers version 12")
    entries = server.client.post("/v2/repository/index").json()
    assert {entry["name"] for entry in entries} == {"flowers"}


def test_folder_without_a_working_model_is_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, line = refused(models=empty)
    assert (code, "no NAME.onnx" in line) == (1, True)
    shutil.copy(folder / "broken.onnx", empty / "broken.onnx")
    code, line = refused(models=empty)
    assert (code, "broken.onnx" in line) == (1, True)

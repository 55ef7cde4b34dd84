"""Tests of model files that are moved, renamed, removed or temporarily unavailable."""

import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.errors import UnknownModel
from service.models.repository import Repository
from tests.support.eventually import eventually
from tests.support.models.small_models import copy_model, errors, run_with_repository
from tests.support.serving.images import plain
from tests.support.serving.server import serving

WATCHED = pytest.mark.parametrize("watched", [False, True], ids=["SIGHUP", "WATCH_MODEL"])


@pytest.fixture
def folder(model_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """Fill MODELS with copies of a file whose manifest says version 3."""
    return partial(copy_model, model_file, tmp_path / "models")


async def refresh(repository: Repository, watched: bool) -> None:
    """Refresh as on SIGHUP, or as WATCH_MODEL until it has missed a file twice."""
    for _scan in range(2 if watched else 1):
        await repository.refresh(changed_only=watched)


@WATCHED
@pytest.mark.parametrize("target", ["a/3/model.onnx", "a/1/model.onnx", "b.onnx", "b/3/model.onnx"])
def test_moved_model_is_served_from_its_new_path_only(
    folder: Callable[..., Path], target: str, watched: bool
) -> None:
    models = folder("a.onnx")

    async def steps(repository: Repository) -> None:
        (models / target).parent.mkdir(parents=True, exist_ok=True)
        (models / "a.onnx").rename(models / target)
        await refresh(repository, watched)
        name, version = target[0], 1 if "/1/" in target else 3
        assert errors(repository) == [(name, version, None)]
        assert repository.find().name.name == name
        if name != "a":
            with pytest.raises(UnknownModel, match=r"no model a; the models here, for \?model=, are b"):
                repository.find("a")

    run_with_repository(steps, models=models)


@WATCHED
def test_removed_newest_version_leaves_the_older_one(folder: Callable[..., Path], watched: bool) -> None:
    models = folder("a/1/model.onnx", "a/2/model.onnx", "b.onnx")

    async def steps(repository: Repository) -> None:
        shutil.rmtree(models / "a/2")
        await refresh(repository, watched)
        assert errors(repository) == [("a", 1, None), ("b", 3, None)]
        assert repository.find("a").name.version == 1

    run_with_repository(steps, models=models)


@WATCHED
def test_last_models_are_served_while_the_folder_is_away(
    folder: Callable[..., Path], watched: bool
) -> None:
    models = folder("a.onnx", "b/2/model.onnx", "bad.onnx")
    (models / "bad.onnx").write_bytes(b"bad")

    async def steps(repository: Repository) -> None:
        models.rename(models.with_name("away"))
        for _time in range(3):
            await refresh(repository, watched)
            assert errors(repository) == [
                ("a", 3, "a.onnx is gone; the model that was loaded from it is served"),
                ("b", 2, "b/2/model.onnx is gone; the model that was loaded from it is served"),
            ]
            assert repository.find("a").name.version == 3
        models.with_name("away").rename(models)
        await refresh(repository, watched)
        assert [error is None for _name, _version, error in errors(repository)] == [True, True, False]

    run_with_repository(steps, models=models)


@WATCHED
def test_unusable_file_replaces_no_model(folder: Callable[..., Path], watched: bool) -> None:
    models = folder("a.onnx")

    async def steps(repository: Repository) -> None:
        (models / "b.onnx").touch()
        (models / "a.onnx").unlink()
        await refresh(repository, watched)
        assert repository.find().name.name == "a"
        assert "b.onnx is empty" in str(repository.registrations[1].error)

    run_with_repository(steps, models=models)


def test_file_replaced_by_removing_it_first_stays_served(folder: Callable[..., Path]) -> None:
    models = folder("a.onnx", "b.onnx")

    async def steps(repository: Repository) -> None:
        (models / "b.onnx").rename(models / "aside")
        await repository.refresh(changed_only=True)
        assert repository.find("b").name.version == 3
        (models / "aside").rename(models / "b.onnx")
        await repository.refresh(changed_only=True)
        assert errors(repository) == [("a", 3, None), ("b", 3, None)]
        await repository.refresh(changed_only=True)
        assert repository.find("b").name.version == 3

    run_with_repository(steps, models=models)


@WATCHED
def test_link_without_its_target_keeps_its_model(folder: Callable[..., Path], watched: bool) -> None:
    models = folder("a.onnx", "b.onnx")
    disk = models.with_name("disk")
    (models / "b.onnx").rename(disk)
    (models / "b.onnx").symlink_to(disk)

    async def steps(repository: Repository) -> None:
        disk.rename(models.with_name("away"))
        await refresh(repository, watched)
        assert repository.find("b").name.version == 3
        assert repository.registrations[1].error is not None
        models.with_name("away").rename(disk)
        await refresh(repository, watched)
        assert errors(repository) == [("a", 3, None), ("b", 3, None)]

    run_with_repository(steps, models=models)


def test_default_model_is_replaced_only_by_its_own_versions(folder: Callable[..., Path]) -> None:
    models = folder("a.onnx", "b.onnx")

    async def steps(repository: Repository) -> None:
        (models / "a.onnx").unlink()
        await refresh(repository, watched=False)
        assert repository.find().name.version == 3
        assert (
            repository.registrations[0].error
            == "a.onnx is gone; the model that was loaded from it is served"
        )
        folder("a/4/model.onnx")
        await refresh(repository, watched=False)
        assert errors(repository) == [("a", 4, None), ("b", 3, None)]
        assert repository.find().name.version == 4

    run_with_repository(steps, models=models, default_model="a")


def test_load_finds_a_moved_model(folder: Callable[..., Path]) -> None:
    models = folder("a.onnx", "b.onnx")

    async def steps(repository: Repository) -> None:
        (models / "a.onnx").unlink()
        (models / "b.onnx").unlink()
        folder("a/5/model.onnx")
        await repository.load("a")
        assert repository.find("a").name.version == 5
        assert repository.find("b").name.version == 3, "only model a was loaded again"

    run_with_repository(steps, models=models)


@WATCHED
def test_no_request_fails_while_files_move(
    folder: Callable[..., Path], tmp_path: Path, watched: bool
) -> None:
    """Send requests without ?model= to a server whose only model is moved, renamed and removed."""
    models, ended = folder("a.onnx"), threading.Event()
    with serving(tmp_path / "log", None, models=models, watch_model=int(watched)) as server:

        def ask() -> None:
            with httpx.Client(base_url=server.address, timeout=30) as client:
                while not ended.is_set():
                    assert client.post("/predict", content=plain(3)).status_code == 200

        def shown() -> list[tuple[str, int, bool]]:
            assert not any(client.done() for client in clients)
            entries = server.client.get("/health").json()["models"]
            return [(m["name"], m["version"], m["error"] is None) for m in entries]

        def wait_for(*expected: tuple[str, int, bool]) -> None:
            if not watched:
                server.process.send_signal(signal.SIGHUP)
            eventually(lambda: shown() == list(expected))

        with ThreadPoolExecutor(2) as pool:
            clients = [pool.submit(ask) for _client in range(2)]
            try:
                (models / "a/3").mkdir(parents=True)
                (models / "a.onnx").rename(models / "a/3/model.onnx")
                wait_for(("a", 3, True))
                (models / "a").rename(models / "b")
                wait_for(("b", 3, True))
                models.rename(tmp_path / "away")
                wait_for(("b", 3, False))
                (tmp_path / "away").rename(models)
                wait_for(("b", 3, True))
            finally:
                ended.set()
            for client in clients:
                client.result()
        assert "a version 3 is not served any more" in server.log
        assert "Traceback" not in server.log

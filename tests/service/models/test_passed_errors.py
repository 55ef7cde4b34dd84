"""Tests of temporary errors of model files: with WATCH_MODEL=1 the next scan clears them."""

import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.errors import NotReady, UnreadableModel
from service.models.repository import Repository
from service.models.session import Model
from tests.support.eventually import eventually_async
from tests.support.models.small_models import (
    LOAD,
    copy_model,
    errors,
    replace_with_version,
    run_with_repository,
)


@pytest.fixture
def folder(model_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """Fill MODELS with copies of a file whose manifest says version 3."""
    return partial(copy_model, model_file, tmp_path / "models")


def away_and_back(file: Path, _model: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    aside = file.with_name("aside")
    return lambda: file.rename(aside), lambda: aside.rename(file)


def bad_and_the_same_again(file: Path, model: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    return lambda: file.write_bytes(b"bad"), lambda: shutil.copy(model, file)


def a_link_elsewhere_and_back(file: Path, model: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    bad = file.with_name("bad")
    bad.write_bytes(b"bad")
    file.unlink()
    file.symlink_to(model)

    def point(target: Path) -> None:
        file.with_name("link").symlink_to(target)
        file.with_name("link").rename(file)

    return lambda: point(bad), lambda: point(model)


@pytest.mark.parametrize("change", [away_and_back, bad_and_the_same_again, a_link_elsewhere_and_back])
@pytest.mark.parametrize("setting", ["model", "models"])
def test_error_is_cleared_with_its_cause(
    folder: Callable[..., Path], model_file: Path, setting: str, change: Any
) -> None:
    models = folder("a.onnx")
    damage, repair = change(models / "a.onnx", model_file)

    async def steps(repository: Repository) -> None:
        damage()
        await repository.refresh(changed_only=True)
        assert errors(repository) != [(repository.find().name.name, 3, None)]
        repair()
        await repository.refresh(changed_only=True)
        assert errors(repository) == [(repository.find().name.name, 3, None)]

    run_with_repository(steps, **{setting: models / "a.onnx" if setting == "model" else models})


def test_unreadable_file_is_read_again(
    folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The file does not change when its disk answers again."""
    models, broken = folder("a.onnx", "b.onnx"), threading.Event()
    broken.set()

    def load(path: Path) -> Model:
        if path.stem == "b" and broken.is_set():
            raise UnreadableModel("b.onnx cannot be read: Input/output error")
        return LOAD(path)

    async def steps(repository: Repository) -> None:
        for _scan in range(3):
            await repository.refresh(changed_only=True)
            with pytest.raises(NotReady, match=r"Input/output error; the models here, for \?model=, are a"):
                repository.find("b")
        assert caplog.text.count("Input/output error") == 1
        broken.clear()
        await repository.refresh(changed_only=True)
        assert errors(repository) == [("a", 3, None), ("b", 3, None)]

    run_with_repository(steps, models=models, load=load)


def test_dangling_link_is_read_again(folder: Callable[..., Path], model_file: Path) -> None:
    """A looping link exists and cannot be opened, as a file without permission, which root can open."""
    models, target = folder("a.onnx"), Path("target")
    (models / target).symlink_to(target)
    (models / "b.onnx").symlink_to(target)

    async def steps(repository: Repository) -> None:
        assert "Too many levels of symbolic links" in str(repository.registrations[1].error)
        (models / target).unlink()
        shutil.copy(model_file, models / target)
        await repository.refresh(changed_only=True)
        assert errors(repository) == [("a", 3, None), ("b", 3, None)]

    run_with_repository(steps, models=models)


@pytest.mark.parametrize("gone", ["moved", "renumbered", "damaged"])
def test_duplicate_name_is_served_when_the_other_file_is_gone(
    folder: Callable[..., Path], model_file: Path, gone: str
) -> None:
    models = folder("a.onnx", "a/3/model.onnx")

    async def steps(repository: Repository) -> None:
        assert [error for *_name, error in errors(repository)] == [None, "a version 3 is a.onnx already"]
        if gone == "moved":
            (models / "a.onnx").rename(models / "b.onnx")
        elif gone == "renumbered":
            replace_with_version(model_file, models / "a.onnx", 5)
        else:
            (models / "a.onnx").write_bytes(b"bad")
        await repository.refresh(changed_only=True)
        assert repository.find("a", 3).name.version == 3
        assert next(s for s in repository.registrations if s.location.version == 3).error is None

    run_with_repository(steps, models=models)


def test_file_on_a_hanging_disk_is_read_again(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.models.loading.LOAD_TIMEOUT_S", 0.1)
    models, released, hung = folder("a.onnx"), threading.Event(), threading.Event()

    def load(path: Path) -> Model:
        if path.stem == "b" and not released.is_set():
            hung.set()
            assert released.wait(60)
        return LOAD(path)

    async def steps(repository: Repository) -> None:
        folder("b.onnx")
        await repository.refresh(changed_only=True)
        assert hung.is_set()
        assert "takes more than" in str(repository.registrations[1].error)
        released.set()
        monkeypatch.undo()

        async def reload() -> bool:
            await repository.refresh(changed_only=True)
            return repository.registrations[1].error is None

        await eventually_async(reload)
        assert repository.find("b").name.version == 3

    run_with_repository(steps, models=models, load=load)

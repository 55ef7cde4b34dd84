"""Tests of the default model, and of names in other Unicode forms."""

import asyncio
import shlex
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from service.cli.predict import UsageError, find_models
from service.errors import InvalidRequest, NotReady
from service.models.default_model import describe_models
from service.models.discovery import normalize_name
from service.settings import Settings, SettingsError
from tests.support.models.small_models import copy_model, repository_of
from tests.support.serving.images import encoded, noise
from tests.support.serving.responses import check
from tests.support.serving.server import Server, refused, serving

PHOTO = encoded(noise(3))
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Blüte") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(model_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """Fill MODELS with copies of a file whose manifest says version 3."""

    def make(*names: str) -> Path:
        return copy_model(model_file, tmp_path / "models", *(f"{name}.onnx" for name in names))

    return make


@pytest.fixture(scope="module")
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the model that comes with the service, two others, and hidden files."""
    models = tmp_path_factory.mktemp("models")
    for name in ("flowers17", "a", DECOMPOSED):
        shutil.copy(model_file, models / f"{name}.onnx")
    (models / "._flowers17.onnx").write_bytes(b"Mac OS X        ")
    (models / ".snapshot/1").mkdir(parents=True)
    shutil.copy(model_file, models / ".snapshot/1/model.onnx")
    with serving(models / "log", None, models=models) as running:
        yield running


def line_after_ready(server: Server) -> str:
    assert server.process.stdout is not None
    return server.process.stdout.readline()


def test_shipped_model_stays_the_default(server: Server) -> None:
    assert line_after_ready(server).split()[-1] == f"{server.address}/predict"
    for path in ("/predict", "/embed", "/explain?format=json"):
        answer = server.client.post(path, content=PHOTO)
        assert answer.json()["model"]["name"] == "flowers17", answer.text
    health = server.client.get("/health").json()
    assert health["model"]["name"] == "flowers17"
    assert health["reload_error"] is None
    names = [entry["name"] for entry in server.client.get("/models").json()]
    assert names == ["flowers17", COMPOSED, "a"], "the default one first, and no hidden files"


@pytest.mark.parametrize("name", [COMPOSED, DECOMPOSED])
def test_name_is_found_in_every_unicode_form(server: Server, name: str) -> None:
    answer = server.client.post("/predict", params={"model": name}, content=PHOTO).json()
    assert answer["model"]["name"] == COMPOSED
    get, path = server.client.get, quote(name)
    assert get(f"/models/{path}/filters.png").status_code == 200
    assert get(f"/v2/models/{path}").json()["name"] == COMPOSED
    assert get(f"/v2/models/{path}").json()["versions"] == ["3"]
    assert get(f"/v2/models/{path}/versions/3/ready").json()["name"] == COMPOSED


def test_overlong_name_is_not_normalized(server: Server) -> None:
    """Normalizing takes time by the square of the number of combining characters."""
    name = "a" + "\u0301\u0323" * 1000
    check(server.client.post("/predict", params={"model": name}, content=PHOTO), 404, "not_found")
    assert normalize_name(name) == name != unicodedata.normalize("NFC", name)


def test_without_a_default_the_start_message_names_a_model(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    with serving(tmp_path / "log", None, models=folder("a b", "c")) as server:
        check(server.client.post("/predict", content=PHOTO), 422, "invalid_request", "?model=", "a b, c")
        url = shlex.split(line_after_ready(server))[-1]
        assert server.client.post(url, content=PHOTO).json()["model"]["name"] == "a b"
        assert "set DEFAULT_MODEL to one of a b, c" in server.log


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", ("a version 1, b version 2", "/predict?model=a")),
        ("b", ("a version 1, b version 2 (default)", "/predict")),
        ("bad", ("a version 1, b version 2", "/predict?model=a")),
    ],
)
def test_start_message_marks_the_default(setting: str, expected: tuple[str, str]) -> None:
    assert describe_models(Settings(default_model=setting), [("a", 1), ("b", 2)]) == expected
    assert describe_models(Settings(), [("a", 2), ("a", 1)]) == ("a version 2, a version 1", "/predict")


def test_default_model_must_exist(folder: Callable[..., Path]) -> None:
    message = "error: DEFAULT_MODEL is 'c', which is not in models; the models there are a, b\n"
    assert refused(models=folder("a", "b"), default_model="c", workers=2) == (2, message)


def test_default_stays_while_it_is_served(
    folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    models = folder("mine")

    async def steps() -> None:
        async with repository_of(models=models) as repository:
            assert not caplog.records
            folder("flowers17")
            for _time in range(2):
                await repository.refresh(changed_only=False)
                assert repository.find().name.name == "mine"
            warning = "get mine, but after a restart flowers17; DEFAULT_MODEL=mine keeps it so"
            assert caplog.text.count(warning) == 1
            await repository.unload("mine")
            assert repository.find().name.name == "flowers17"
            assert "mine is not served any more; requests without ?model= get flowers17" in caplog.text

    asyncio.run(steps())


def test_no_other_model_answers_for_default_model(folder: Callable[..., Path]) -> None:
    """If DEFAULT_MODEL cannot be served, another model's answers would be wrong ones."""
    models = folder("a", "flowers17", COMPOSED)

    async def steps() -> None:
        async with repository_of(models=models, default_model=DECOMPOSED) as repository:
            assert repository.find().name.name == COMPOSED
            await repository.unload(DECOMPOSED)
            for name in (None, DECOMPOSED):
                with pytest.raises(NotReady, match=r"it was unloaded; .* \?model=, are a, flowers17"):
                    repository.find(name)
            await repository.load(DECOMPOSED)
            assert repository.find().name.name == COMPOSED
        (models / "a.onnx").write_bytes(b"bad")
        async with repository_of(models=models, default_model="a") as repository:
            with pytest.raises(NotReady, match=r"DEFAULT_MODEL is a, which is not served: a\.onnx is"):
                repository.find()
            assert repository.find("flowers17").name.version == 3

    asyncio.run(steps())


def test_model_setting_overrides_default_model(folder: Callable[..., Path]) -> None:
    async def steps() -> None:
        async with repository_of(model=folder("a") / "a.onnx", default_model="other") as repository:
            assert repository.find().name.name == "tiny"

    asyncio.run(steps())


def test_only_served_model_is_the_default(folder: Callable[..., Path]) -> None:
    models = folder("a", "b", "c")
    (models / "b.onnx").write_bytes(b"bad")

    async def steps() -> None:
        async with repository_of(models=models) as repository:
            with pytest.raises(InvalidRequest):
                repository.find()
            await repository.unload("c")
            assert repository.find().name.name == "a"

    asyncio.run(steps())


def test_command_line_has_the_same_default(folder: Callable[..., Path]) -> None:
    models = folder("a", "b")

    def name(model: str | None = None, **settings: str) -> str:
        locations = find_models(Settings(models=models, device="cpu", **settings), model)  # type: ignore[arg-type]
        return locations[0].name

    with pytest.raises(UsageError, match="name one of the models with --model: a, b"):
        name()
    with pytest.raises(SettingsError, match="DEFAULT_MODEL is 'c'"):
        name(default_model="c")
    folder("flowers17", COMPOSED)
    assert name() == "flowers17"
    assert name(default_model="b") == "b"
    assert name("a", default_model="b") == "a"
    assert name(default_model=DECOMPOSED) == name(DECOMPOSED) == COMPOSED


def test_models_in_a_kubernetes_volume_are_replaced(
    folder: Callable[..., Path], model_file: Path, tmp_path: Path
) -> None:
    """NAME.onnx links to ..data/NAME.onnx and ..data to ..TIME; a change of the volume swaps ..data."""
    models = folder()
    for time in ("..2026_1", "..2026_2"):
        (models / time / "b/7").mkdir(parents=True)
        shutil.copy(model_file, models / time / "a.onnx")
        shutil.copy(model_file, models / time / "b/7/model.onnx")

    def point(time: str) -> None:
        (models / "..data_tmp").symlink_to(time)
        (models / "..data_tmp").rename(models / "..data")

    point("..2026_1")
    for name in ("a.onnx", "b"):
        (models / name).symlink_to(f"..data/{name}")

    async def steps() -> None:
        async with repository_of(models=models) as repository:
            before = repository.find("a"), repository.find("b", 7)
            point("..2026_2")
            shutil.rmtree(models / "..2026_1")
            await repository.refresh(changed_only=True)
            assert [(s.name, s.version, s.error) for s in repository.registrations] == [
                ("a", 3, None),
                ("b", 7, None),
            ]
            assert repository.find("a") not in before
            assert repository.find("b", 7) not in before

    asyncio.run(steps())

"""Installation with pip: the client package works alone, and the checkout installs no package."""

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts.licences import normal
from tests.support.checkout import ROOT, draw_photos, scripts_of
from tests.support.serving.server import serving

INSTALL = ("install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--target")
# Neither this suite's environment nor the working folder is on the path.
RUN = "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_path(sys.argv[2])"


def install(source: Path, target: Path) -> metadata.Distribution:
    subprocess.run([sys.executable, "-m", "pip", *INSTALL, target, source], check=True)
    (information,) = target.glob("*.dist-info")
    return metadata.Distribution.at(information)


def needed_by(distribution: metadata.Distribution) -> dict[str, metadata.Distribution]:
    """Return the distributions that pip would install as dependencies, by name."""
    dependencies: dict[str, metadata.Distribution] = {}
    waiting = [distribution]
    while waiting:
        for text in waiting.pop().requires or []:
            requirement = Requirement(text)
            name = normal(requirement.name)
            if name not in dependencies and (
                not requirement.marker or requirement.marker.evaluate({"extra": ""})
            ):
                dependencies[name] = metadata.distribution(name)
                waiting.append(dependencies[name])
    return dependencies


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the client package: pip builds in its source folder."""
    copy = tmp_path_factory.mktemp("source") / "alexnet_client"
    return Path(
        shutil.copytree(ROOT / "alexnet_client", copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    )


@pytest.fixture(scope="module")
def site(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the client is installed."""
    folder = tmp_path_factory.mktemp("site")
    install(source, folder)
    return folder


def test_the_client_is_one_package_that_needs_two(site: Path) -> None:
    (information,) = site.glob("*.dist-info")
    client = metadata.Distribution.at(information)
    assert {path.name for path in site.iterdir()} == {"alexnet_client", "alexnet_client-0.1.0.dist-info"}
    assert {Requirement(text).name for text in client.requires or []} == {"httpx", "pydantic"}
    written = {path.name for path in (ROOT / "alexnet_client").glob("*.py")} | {"py.typed"}
    assert {path.name for path in (site / "alexnet_client").iterdir()} == written


def test_the_readme_s_lines_of_python(site: Path, tmp_path: Path) -> None:
    """With the client, what its metadata asks for, and nothing else; in a folder with a picture."""
    home, all_of_it = tmp_path / "home", tmp_path / "site"
    (information,) = site.glob("*.dist-info")
    shutil.copytree(site, all_of_it)
    for distribution in needed_by(metadata.Distribution.at(information)).values():
        for name in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            (all_of_it / name).symlink_to(Path(str(distribution.locate_file(name))))
    draw_photos(home, ("red",), 1)
    (home / "red/0.jpg").rename(home / "photo.jpg")
    (lines,) = scripts_of(ROOT / "README.md")
    with serving(tmp_path / "log", ROOT / "models/flowers17.onnx", threads=1) as server:
        (home / "ask.py").write_text(re.sub(r"http://127\.0\.0\.1:8000", server.address, lines))
        command = [sys.executable, "-I", "-S", "-c", RUN, str(all_of_it), "ask.py"]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
        expected = server.client.post("/predict", content=(home / "photo.jpg").read_bytes()).json()
    assert (done.stdout, done.stderr) == (f"{expected['predictions'][0]['label']}\n", "")


def test_checkout_installs_no_package(tmp_path: Path) -> None:
    """`service`, `contract` and `training` are too common as package names; the code runs in place."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for package in ("service", "contract", "training"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    install(tmp_path, tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["alexnet-0.1.0.dist-info"]

"""Every command of the README and of docs/deployment.md, in a fresh clone with nothing installed."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.checkout import (
    ROOT,
    clone,
    commands,
    draw_photos,
    environ,
    free_port,
    scripts_of,
    serving,
)
from tests.support.torchvision_alexnet import TorchvisionAlexNet
from training.export.verify import read_model
from training.start.published import imagenet_classes

SERVE = "scripts/serve"
TEST = "scripts/test"  # it runs this suite, so it is not run here
ASK = "curl -F file=@photo.jpg http://127.0.0.1:8000/predict"
TRAIN = "scripts/training train --data photos"
EXPORT = "scripts/training export runs/photos --out models/photos.onnx --data photos"
SERVE_MINE = "MODEL=models/photos.onnx scripts/serve"
IMPORT = "scripts/training import --from torchvision --out runs/imagenet"
SERVE_IMPORTED = "MODEL=runs/imagenet/imagenet.onnx scripts/serve"
MAKE_KEY = (
    "python3 -c 'import hashlib, secrets; key = secrets.token_urlsafe(32); "
    "print(key, hashlib.sha256(key.encode()).hexdigest())'"
)
PREDICT = "scripts/predict photo.jpg"
INSTALL_CLIENT = "pip install ./alexnet_client"  # run in tests/test_client_package.py
DOCKER = "docker compose up"  # run in tests/docker


def test_every_command_is_known_here() -> None:
    using = [SERVE, TEST, ASK, PREDICT, INSTALL_CLIENT]
    training = [TRAIN, EXPORT, SERVE_MINE, IMPORT, SERVE_IMPORTED]
    assert commands(ROOT / "README.md") == [*using, *training, DOCKER]
    assert commands(ROOT / "docs/deployment.md") == [MAKE_KEY]


def test_ci_runs_the_test_command() -> None:
    assert TEST in (ROOT / ".ci/run").read_text().splitlines()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_example_is_of_the_included_model() -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    sha256 = hashlib.sha256((ROOT / "models/flowers17.onnx").read_bytes()).hexdigest()
    assert json.loads(example)["model"] == {"name": "flowers17", "version": 1, "sha256": sha256}


def ask(port: int, cwd: Path) -> dict[str, object]:
    command = ASK.replace("8000", str(port))
    done = subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True, check=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def answer_of_the_script(checkout: Path, photo: Path, venv: Path) -> list[str]:
    """Return what the script of docs/model.md prints, run by the interpreter of `venv`."""
    (script,) = scripts_of(checkout / "docs/model.md")
    command = [str(venv / "bin/python"), "-c", script, str(photo)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(400)  # a real installation
def test_from_a_clone_to_an_answer(tmp_path: Path) -> None:
    checkout, elsewhere, home = clone(tmp_path / "clone"), tmp_path / "elsewhere", tmp_path / "home"
    for folder in (elsewhere, home):
        folder.mkdir()
    draw_photos(tmp_path / "photos", ("red",), 1)
    (tmp_path / "photos/red/0.jpg").rename(elsewhere / "photo.jpg")
    port = free_port()
    # pip asks rustc for its version, and where that is rustup's it writes its settings at the first call.
    env = environ(PORT=str(port), HOME=str(home), TMPDIR=str(home), RUSTUP_HOME=str(tmp_path))

    # Half an installation, such as a Ctrl-C leaves behind: the next start completes it.
    (checkout / ".venv/bin").mkdir(parents=True)
    with serving(str(checkout / SERVE), elsewhere, env, 300) as printed:
        assert f"on http://127.0.0.1:{port} (CPUExecutionProvider)" in printed
        assert f"curl -F file=@photo.jpg http://127.0.0.1:{port}/predict" in printed
        answer = ask(port, elsewhere)
    assert answer_of_the_script(checkout, elsewhere / "photo.jpg", checkout / ".venv") == [
        f"{p['label']:20} {p['probability']:.4f}"
        for p in answer["predictions"]  # type: ignore[attr-defined]
    ]
    assert answer["model"]["name"] == "flowers17"  # type: ignore[index]
    assert len(answer["predictions"]) == 5  # type: ignore[arg-type]
    done = subprocess.run(
        [checkout / "scripts/predict", "photo.jpg"],
        cwd=elsewhere,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert answer["predictions"][0]["label"] in done.stdout  # type: ignore[index]
    asked = [str(checkout / "scripts/predict"), "--help"]
    helped = subprocess.run(asked, cwd=elsewhere, env=env, capture_output=True, text=True, check=True)
    assert helped.stdout.startswith(f"usage: {checkout}/scripts/predict")
    assert list(home.iterdir()) == [], "something was written outside the checkout"
    assert not list((checkout / ".venv").glob("lib/*/site-packages/torch"))

    with serving(str(checkout / SERVE), elsewhere, env, 30):  # nothing to install any more
        pass


@pytest.mark.slow  # installs it
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="ONNX Runtime 1.20 has no wheels for it")
def test_the_oldest_onnx_runtime_answers_the_same(tmp_path: Path) -> None:
    old = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", old], check=True)
    subprocess.run([old / "bin/pip", "install", "-q", "onnxruntime==1.20.1", "pillow"], check=True)
    draw_photos(tmp_path / "photos", ("red",), 1)
    photo = tmp_path / "photos/red/0.jpg"
    answers = [answer_of_the_script(ROOT, photo, venv) for venv in (old, Path(sys.prefix))]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_training_on_one_s_own_photographs(tmp_path: Path) -> None:
    checkout = clone(tmp_path / "clone")
    (checkout / ".venv").symlink_to(ROOT / ".venv")  # where this suite runs: nothing is left to install
    draw_photos(checkout / "photos", ("red", "green"), 10)
    draw_photos(checkout / "one", ("red",), 1)
    (checkout / "one/red/0.jpg").rename(checkout / "photo.jpg")

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", *arguments]
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "Clone")
    for command in (f"{TRAIN} --epochs 1", EXPORT):
        subprocess.run(["bash", "-c", command], cwd=checkout, env=environ(), check=True)
    _model, manifest = read_model(checkout / "models/photos.onnx")
    assert [m.images for m in manifest.metrics] == [4, 4], "not the fifth that was set aside"
    assert git("status", "--porcelain") == "", "the commands left files that git does not ignore"
    asked = ["scripts/training", "--help"]
    helped = subprocess.run(asked, cwd=checkout, env=environ(), capture_output=True, text=True, check=True)
    assert helped.stdout.startswith("usage: scripts/training [-h]"), "the command that was typed"
    port = free_port()
    with serving("env " + SERVE_MINE, checkout, environ(PORT=str(port)), 60):
        answer = ask(port, checkout)
    assert answer["model"]["name"] == "photos"  # type: ignore[index]
    assert {p["label"] for p in answer["predictions"]} == {"red", "green"}  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_importing_published_weights(tmp_path: Path) -> None:
    """All but the download: the file, of the same names and shapes, lies here."""
    checkout = clone(tmp_path / "clone")
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    torch.save(TorchvisionAlexNet().state_dict(), checkout / "weights.pth")
    command = ["bash", "-c", f"{IMPORT} weights.pth"]
    done = subprocess.run(command, cwd=checkout, env=environ(), capture_output=True, text=True, check=True)
    assert "no accuracy is claimed" in done.stdout, "which is the published file's alone"
    assert read_model(checkout / "runs/imagenet/imagenet.onnx")[1].metrics == ()
    draw_photos(checkout / "one", ("red",), 1)
    (checkout / "one/red/0.jpg").rename(checkout / "photo.jpg")
    port = free_port()
    with serving("env " + SERVE_IMPORTED, checkout, environ(PORT=str(port)), 60):
        answer = ask(port, checkout)
    assert answer["model"]["name"] == "imagenet"  # type: ignore[index]
    assert {p["label"] for p in answer["predictions"]} < set(imagenet_classes())  # type: ignore[attr-defined]


def test_making_a_key() -> None:
    done = subprocess.run(["bash", "-c", MAKE_KEY], capture_output=True, text=True, check=True)
    key, digest = done.stdout.split()
    assert len(key) > 40
    assert len(digest) == 64

"""Build the images once, train and export a model in them, and provide a stack to each test."""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from tests.docker.stack import Stack


@pytest.fixture(scope="session")
def user() -> tuple[int, int]:
    """Return the uid and gid for training: those of the tests, or others if the tests run as root."""
    return (os.getuid(), os.getgid()) if os.getuid() else (12345, 12346)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, user: tuple[int, int]) -> Iterator[Stack]:
    """Build the images and draw photographs; nothing is running yet."""
    folder = tmp_path_factory.mktemp("stack")
    for name in ("runs", "models"):
        (folder / name).mkdir()
        os.chown(folder / name, *user)
    draw_photographs(folder / "data")
    stack = Stack(
        {
            "DATA": str(folder / "data"),
            "RUNS": str(folder / "runs"),
            "MODELS": str(folder / "models"),
            "RUN_AS": f"{user[0]}:{user[1]}",
            "REVISION": "0123abc",
        }
    )
    try:
        stack.do("--profile", "*", "build")
        with stack.client:
            yield stack
    finally:
        stack.compose("--profile", "*", "down", "--timeout", "5", "--volumes")


@pytest.fixture(scope="session")
def model(bench: Stack) -> Path:
    """Train and export a model in the training image."""
    small = ["--recipe", "paper", "--width", "0.05", "--epochs", "6", "--batch-size", "8"]
    small += ["--weight-init", "kaiming"]
    train, export = ("run", "--rm", "training", "train"), ("run", "--rm", "training", "export")
    bench.do(*train, "--data", "/data", "--out", "/runs/mine", *small)
    bench.do(*export, "/runs/mine", "--out", "/models/flowers17.onnx", "--data", "/data")
    return Path(bench.settings["MODELS"]) / "flowers17.onnx"


@pytest.fixture
def stack(bench: Stack, model: Path) -> Iterator[Stack]:
    """Return a stack with a model; the test starts services, and they are stopped afterwards."""
    yield bench
    bench.compose("--profile", "*", "down", "--timeout", "5", "--volumes")


def draw_photographs(data: Path) -> None:
    """Draw two classes of different colours, which even a tiny network tells apart."""
    rng = Random(0)
    for label, colour in {"red": (200, 40, 40), "green": (40, 200, 40)}.items():
        (data / label).mkdir(parents=True)
        for number in range(20):
            r, g, b = (channel + rng.randrange(-40, 40) for channel in colour)
            Image.new("RGB", (256, 256), (r, g, b)).save(data / label / f"{number}.jpg")

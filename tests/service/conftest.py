"""Small model files, made on the fly, a server that serves one of them, and who asks it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tests.support.models.small_models import write_model
from tests.support.models.trusted import TRUST, write_trusted
from tests.support.serving.images import encoded, noise
from tests.support.serving.server import CLASSES, Server, serving
from tests.support.serving.triton import client_of
from training.config import Config
from training.export.export import export
from training.model import AlexNet
from training.run import checkpoint
from training.run.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow AlexNet with random weights, large enough that every image gets its own answer."""
    folder = tmp_path_factory.mktemp("model")
    config = Config(width=0.05, weight_init="kaiming")
    torch.manual_seed(1)
    network = AlexNet(len(CLASSES), config.width, config.weight_init)
    torch.nn.init.normal_(network.fc8.weight, std=0.3)
    state = Checkpoint(config, CLASSES, [120.0, 110.0, 90.0], [config.std] * 3, network.state_dict())
    state.provenance = {"data": "nothing"}
    checkpoint.save(state, folder / "best.pt")
    path = folder / "tiny.onnx"
    export(folder / "best.pt", path, version=3)
    path.with_suffix(".md").write_text("# A model for tests\n")
    return path


@pytest.fixture(scope="session")
def fragile_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Probabilities sqrt(0.5 +- mean/256): sound for dark images, NaN for bright ones."""
    column = np.full(224 * 224 * 3, 1 / 256 / (224 * 224 * 3), np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "half"], ["sum"]),
        helper.make_node("Sqrt", ["sum"], ["probabilities"]),
    ]
    stored = {"weights": np.stack([column, -column], 1), "half": np.full(2, 0.5, np.float32)}
    return write_model(
        tmp_path_factory.mktemp("fragile") / "fragile.onnx", ("dark", "bright"), nodes, stored
    )


@pytest.fixture(scope="session")
def trusted_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the same network with trust, with trust but no unfamiliarity, and without either."""
    folder = tmp_path_factory.mktemp("trusted")
    write_trusted(folder / "trusted.onnx")
    write_trusted(folder / "calibrated.onnx", replace(TRUST, familiarity=None))
    write_trusted(folder / "untested.onnx", None)
    return folder


@pytest.fixture(scope="session")
def trusted(trusted_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves them; the default is the one with trust."""
    log = tmp_path_factory.mktemp("log") / "stderr"
    with serving(log, None, models=trusted_models, default_model="trusted", threads=1) as running:
        yield running


@pytest.fixture(scope="session")
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that don't need settings of their own."""
    with serving(tmp_path_factory.mktemp("log") / "stderr", model_file) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with client_of(server) as here:
        yield here


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures, one of them corrupt, and what is none."""
    folder = tmp_path / "photos"
    (folder / "more/deep").mkdir(parents=True)
    (folder / ".cache").mkdir()
    for name, seed in (("a.jpg", 1), ("c.jpg", 2), (".cache/hidden.jpg", 3)):
        (folder / name).write_bytes(encoded(noise(seed)))
    (folder / "b.jpg").write_bytes(encoded(noise(4))[:300])
    (folder / "more/deep/d.png").write_bytes(encoded(noise(5), "PNG"))
    (folder / "more/without-suffix").write_bytes(encoded(noise(6), "WEBP"))
    (folder / "notes.txt").write_text("no picture")
    return folder

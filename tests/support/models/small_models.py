"""Small model files of a few nodes, made by the tests, and a repository of them."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from contract.manifest import METADATA_KEY, Manifest, Tensor
from contract.recipe import DEFAULT_RECIPE
from service.models.loading import Load, read_all
from service.models.repository import Repository
from service.models.session import load_model
from service.observability.metrics import Metrics
from service.settings import Settings

LOAD: Final[Load] = partial(load_model, device="cpu", threads=1)


def write_model(
    path: Path, classes: Sequence[str], nodes: list[NodeProto], stored: Mapping[str, Any]
) -> Path:
    """Write a model file with these nodes; its name is the file's and its version is 1.

    `nodes` lead from `images` (N, 224, 224, 3) uint8 to `probabilities` (N, classes); `stored` has their
    constants by name.
    """
    count = len(classes)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 224, 224, 3])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", count])
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    model = helper.make_model(
        helper.make_graph(nodes, path.stem, [images], [output], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    manifest = Manifest(
        name=path.stem,
        version=1,
        architecture={},
        classes=tuple(classes),
        recipe=DEFAULT_RECIPE,
        mean=(128, 128, 128),
        std=(1, 1, 1),
        opset=17,
        precision="fp32",
        inputs=(Tensor("images", "uint8", (None, 224, 224, 3), "pixels"),),
        outputs=(Tensor("probabilities", "float32", (None, count), "of each class"),),
    )
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, manifest.to_json()
    onnx.save(model, path)
    return path


def replace_with_version(model: Path, target: Path, version: int) -> Path:
    """Write the model with another version to `target`, replacing it in one step."""
    loaded = onnx.load(model)
    (entry,) = (entry for entry in loaded.metadata_props if entry.key == METADATA_KEY)
    entry.value = entry.value.replace('"version": 3', f'"version": {version}')
    partial = target.with_suffix(".new")
    onnx.save(loaded, partial)
    return partial.replace(target)


@asynccontextmanager
async def repository_of(load: Load = LOAD, **settings: Any) -> AsyncIterator[Repository]:
    """Make the repository of a service with these settings, without a server."""
    options = Settings(**settings)
    results = await asyncio.to_thread(read_all, options, load)
    yield Repository(options, results, load, Metrics())


def copy_model(model: Path, folder: Path, *files: str) -> Path:
    """Copy a model into a folder, once under each of the names `files`."""
    folder.mkdir(exist_ok=True)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model, folder / file)
    return folder


def run_with_repository(steps: Callable[[Repository], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run the steps on a repository with these settings, for at most a minute."""

    async def run() -> None:
        async with repository_of(**settings) as repository:
            await steps(repository)

    asyncio.run(asyncio.wait_for(run(), 60))


def errors(repository: Repository) -> list[tuple[str, int | None, str | None]]:
    """List name, version and error of every registered model."""
    return [(source.name, source.version, source.error) for source in repository.registrations]

"""Tests of loading a model on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.models.session import LARGE_MODEL_BYTES, CpuSession, load_model


@pytest.mark.parametrize("threads", [1, 3])
def test_session_has_one_thread(model_file: Path, threads: int) -> None:
    model = load_model(model_file, "cpu", threads)
    assert (threads_of(model.session), model.whole) == (1, None)


def test_large_network_has_a_session_of_all_threads(model_file: Path, tmp_path: Path) -> None:
    large = onnx.load(model_file)
    large.doc_string = "x" * LARGE_MODEL_BYTES
    path = tmp_path / "large.onnx"
    onnx.save(large, path)
    model = load_model(path, "cpu", 3)
    assert (threads_of(model.session), threads_of(model.whole)) == (1, 3)
    images = [np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)]
    one_core, every_core = model.run(images), model.run(images, exclusive=True)
    np.testing.assert_allclose(one_core["probabilities"], every_core["probabilities"], rtol=1e-4)
    assert load_model(path, "cpu", 1).whole is None


def test_file_is_not_kept_in_memory(model_file: Path) -> None:
    model = load_model(model_file, "cpu", 2, large_bytes=0)
    sessions = [runtime_session(model.session), runtime_session(model.whole)]
    assert [vars(session)["_model_bytes"] for session in sessions] == [None, None]


def test_parts_are_run_as_one_batch(model_file: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), np.uint8)
    model = load_model(model_file, "cpu", 1)
    whole = model.run([images], ["fc7", "probabilities"])
    parts = model.run([images[:1], images[1:3], images[3:]], ["fc7", "probabilities"])
    for name in ("fc7", "probabilities"):
        np.testing.assert_array_equal(parts[name], whole[name])


def runtime_session(session: object) -> Any:
    assert isinstance(session, CpuSession)
    return session._session


def threads_of(session: object) -> int:
    return int(runtime_session(session).get_session_options().intra_op_num_threads)

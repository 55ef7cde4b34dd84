"""Tests of loading a model on the CPU."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from service.models.session import LARGE_MODEL_BYTES, load_model


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
    images = list(np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8))
    for row, exclusive in zip(model.run(images), model.run(images, exclusive=True), strict=True):
        np.testing.assert_allclose(row["probabilities"], exclusive["probabilities"], rtol=1e-4)
    assert load_model(path, "cpu", 1).whole is None


def test_file_is_not_kept_in_memory(model_file: Path) -> None:
    model = load_model(model_file, "cpu", 2, large_bytes=0)
    assert [vars(session)["_model_bytes"] for session in (model.session, model.whole)] == [None, None]


def threads_of(session: object) -> int:
    options = session.get_session_options()  # type: ignore[attr-defined]
    return int(options.intra_op_num_threads)

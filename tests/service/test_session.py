"""How a model is loaded on the CPU."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from service.session import SMALL, load_model


@pytest.mark.parametrize("threads", [1, 3])
def test_a_small_network_has_a_lane_for_each_thread(model_file: Path, threads: int) -> None:
    model = load_model(model_file, "cpu", threads)
    assert model.lanes == threads
    assert threads_of(model.session) == 1


def test_a_large_network_has_all_threads_in_one_lane(model_file: Path, tmp_path: Path) -> None:
    large = onnx.load(model_file)
    large.doc_string = "x" * SMALL
    path = tmp_path / "large.onnx"
    onnx.save(large, path)
    model = load_model(path, "cpu", 3)
    assert (model.lanes, threads_of(model.session)) == (1, 3)
    assert len(model.run([np.zeros((224, 224, 3), np.uint8)] * 2)) == 2


def test_the_file_is_not_kept_in_memory(model_file: Path) -> None:
    assert vars(load_model(model_file, "cpu", 1).session)["_model_bytes"] is None


def threads_of(session: object) -> int:
    options = session.get_session_options()  # type: ignore[attr-defined]
    return int(options.intra_op_num_threads)

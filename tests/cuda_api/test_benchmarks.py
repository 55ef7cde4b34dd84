"""Test what benchmarks.gpu does with ONNX Runtime's CUDA provider."""

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.gpu.__main__ import report
from benchmarks.gpu.limits import measure_card
from benchmarks.gpu.resident import Resident
from service.models.cuda import GpuOptions
from tests.cuda_api.test_sessions import SHIPPED, calls_from_now, images

pytestmark = pytest.mark.cuda_api


def test_network_alone_is_timed_as_a_cuda_graph() -> None:
    alone = Resident(SHIPPED.read_bytes(), "int8", GpuOptions(), ort)
    for batch in (4, 2):
        inputs, shape = {"images": images(batch)}, [batch, 17]
        calls = calls_from_now()
        times = alone.times(inputs, "probabilities", shape, np.float32, seconds=0)
        assert len(calls.named("beginCapture")) == 1
        assert len(calls.named("graphLaunch")) == 1 + len(times)


def test_report_has_a_row_for_every_batch() -> None:
    card = measure_card(ort, side=64, count=1000)
    lines = list(report([SHIPPED], card, {}, max_batch=2, seconds=0.01))
    rows = [line.split("|")[2:4] for line in lines if line.startswith("| flowers17.onnx")]
    assert rows == [[" int8 ", " 2 "], [" int8 ", " 1 "], [" int8, TF32 ", " 2 "], [" int8, TF32 ", " 1 "]]

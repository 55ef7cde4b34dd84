"""Answers that nobody reads: their memory is bounded, and who reads nothing for longest makes room."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.serving.images import plain
from tests.support.serving.raw_http import (
    answers,
    connect,
    descriptors,
    exchange,
    request,
    rest_of,
)
from tests.support.serving.server import Server, serving

BUNDLE = "/static/swagger-ui-bundle.js"  # 1.5 MB


@pytest.fixture(scope="module")
def patient(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Reads may take as long as they like; 2 MB of answers may wait."""
    limits = {"max_body_bytes": 1_000_000, "max_queue_bytes": 8_000_000, "write_timeout_s": 300}
    with serving(tmp_path_factory.mktemp("log") / "stderr", model_file, **limits) as running:
        yield running


def images(server: Server) -> float:
    return float(re.search(r"\nalexnet_images_total (\S+)", server.client.get("/metrics").text)[1])  # type: ignore[index]


def test_clients_that_read_nothing_are_disconnected_at_the_memory_limit(patient: Server) -> None:
    before = descriptors(patient)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(patient, 4096)) for _ in range(12)]
        for connection in held:
            connection.sendall(request("GET", BUNDLE, close=False) * 8)
        # One has 1.5 MB, and the next answer is past the limit.
        eventually(lambda: descriptors(patient) <= before + 2)
        (answer,) = exchange(patient, request("GET", BUNDLE))
        assert len(answer.content) > 1_000_000, "whoever reads is not cut off"


def test_a_pipelined_request_waits_until_the_previous_response_is_read(patient: Server) -> None:
    asked = images(patient)
    with connect(patient, 4096) as connection:
        predict = request("POST", "/predict", plain(1))
        connection.sendall(request("GET", BUNDLE, close=False) + predict)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert images(patient) == asked, "its answer would wait in memory too"
        found = [answer.status_code for answer in answers(rest_of(connection))]
        assert found == [200, 200]
    assert images(patient) == asked + 1

"""Test unread answers: their memory is bounded, and the slowest reader is disconnected."""

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
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve without a practical limit on reading time; 2 MB of answers may wait."""
    limits = {"max_body_bytes": 1_000_000, "max_queue_bytes": 8_000_000, "write_timeout_s": 300}
    with serving(tmp_path_factory.mktemp("log") / "stderr", model_file, **limits) as running:
        yield running


def images(server: Server) -> float:
    """Return the number of images that have been answered."""
    return float(re.search(r"\nalexnet_images_total (\S+)", server.client.get("/metrics").text)[1])  # type: ignore[index]


def test_clients_that_read_nothing_are_disconnected(server: Server) -> None:
    before = descriptors(server)
    with ExitStack() as stack:
        held = [stack.enter_context(connect(server, 4096)) for _ in range(12)]
        for connection in held:
            connection.sendall(request("GET", BUNDLE, close=False) * 8)
        # One answer has 1.5 MB: a second one exceeds the limit.
        eventually(lambda: descriptors(server) <= before + 2)
        (answer,) = exchange(server, request("GET", BUNDLE))
        assert len(answer.content) > 1_000_000, "a client that reads is not disconnected"


def test_a_pipelined_request_starts_once_the_earlier_answer_is_read(server: Server) -> None:
    count = images(server)
    with connect(server, 4096) as connection:
        predict = request("POST", "/predict", plain(1))
        connection.sendall(request("GET", BUNDLE, close=False) + predict)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert images(server) == count, "its answer would wait in memory too"
        statuses = [answer.status_code for answer in answers(rest_of(connection))]
        assert statuses == [200, 200]
    assert images(server) == count + 1

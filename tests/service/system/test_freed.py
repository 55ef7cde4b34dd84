"""What a request was about is freed when it is answered. An error that its own frames hold would keep the
picture until the garbage collector comes: forty PNGs of 16 MB, cut off, were 600 MB.
"""

import base64
import gc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.models.session import load_model
from tests.support.eventually import eventually
from tests.support.serving.images import encoded, noise, plain
from tests.support.serving.in_process import serving_in_process

CUT = encoded(noise(1, 300, 300), "PNG", compress_level=1)[:-20_000]
IN_JSON = base64.b64encode(CUT).decode()
TENSOR = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [IN_JSON]}
load = partial(load_model, device="cpu", threads=1)
Ask = Callable[[httpx.Client], httpx.Response]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Neither it nor `errors` looks at what was there before: half a million objects, of imports mostly."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def errors() -> list[Exception]:
    # By type: some objects of others' answer for another's class.
    found = [one for one in gc.get_objects() if issubclass(type(one), Exception)]
    return [error for error in found if error.__traceback__]


def check_freed(client: httpx.Client, ask: Ask, status: int) -> None:
    """No new error is left once the event loop has come to something else, and the thread that raised it
    has too: on a busy machine it may still be at it when it has been answered.
    """
    ask(client)  # what is made once is made
    gc.collect()
    before = {id(error) for error in errors()}  # of other tests, whose parameters they are
    for _time in range(3):
        answer = ask(client)
        assert answer.status_code == status, answer.text
    assert client.get("/health/live").status_code == 200
    eventually(lambda: not [error for error in errors() if id(error) not in before])


@pytest.mark.parametrize("processes", [0, 1])
def test_refused_pictures(model_file: Path, processes: int) -> None:
    asks: dict[str, tuple[Ask, int]] = {
        "the body": (lambda client: client.post("/predict", content=CUT), 422),
        "no picture": (lambda client: client.post("/predict", content=b"x" * 1000), 415),
        "a form": (lambda client: client.post("/predict", files={"file": CUT}), 422),
        "several": (lambda client: client.post("/predict", files=[("file", CUT), ("file", CUT)]), 200),
        "JSON": (lambda client: client.post("/predict", json={"image": IN_JSON}), 422),
        "ten crops": (lambda client: client.post("/predict?crops=10", content=CUT), 422),
        "embed": (lambda client: client.post("/embed", content=CUT), 422),
        "explain": (lambda client: client.post("/explain", content=CUT), 422),
        "v2": (lambda client: client.post("/v2/models/tiny/infer", json={"inputs": [TENSOR]}), 400),
    }
    with serving_in_process(model_file, load, 1, decode_processes=processes) as running:
        for what, (ask, status) in asks.items():
            print(what)  # pytest shows it where this fails
            check_freed(running.client, ask, status)


def test_a_batch_that_fails(fragile_model: Path) -> None:
    with serving_in_process(fragile_model, load, 1) as running:
        check_freed(running.client, lambda client: client.post("/predict", content=plain(255)), 500)

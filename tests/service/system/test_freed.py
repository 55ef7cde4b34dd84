"""Tests that a request's memory is freed when it is answered, without the garbage collector.

An error that its own frames refer to would keep the picture until the next collection: forty truncated
PNGs of 16 MB were 600 MB.
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
    """Disable the collector, and freeze the half million objects of imports, so that `errors` is quick."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def errors() -> list[Exception]:
    # By type(), because some libraries' objects have a __class__ that is not their own.
    exceptions = [item for item in gc.get_objects() if issubclass(type(item), Exception)]
    return [error for error in exceptions if error.__traceback__]


def check_freed(client: httpx.Client, ask: Ask, status: int) -> None:
    """Assert that failing requests leave no error behind.

    Waits, because on a busy machine the thread that raised an error may still hold it after the answer.
    """
    ask(client)  # creates what is created only once
    gc.collect()
    before = {id(error) for error in errors()}  # errors of other tests, such as their parameters
    for _time in range(3):
        answer = ask(client)
        assert answer.status_code == status, answer.text
    assert client.get("/health/live").status_code == 200
    eventually(lambda: not [error for error in errors() if id(error) not in before])


@pytest.mark.parametrize("processes", [0, 1])
def test_refused_pictures_are_freed(model_file: Path, processes: int) -> None:
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
        for name, (ask, status) in asks.items():
            print(name)  # pytest shows it if this fails
            check_freed(running.client, ask, status)


def test_failed_batch_is_freed(fragile_model: Path) -> None:
    with serving_in_process(fragile_model, load, 1) as running:
        check_freed(running.client, lambda client: client.post("/predict", content=plain(255)), 500)

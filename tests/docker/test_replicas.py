"""Test requests while replicas are stopped, killed or restarted."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPResponse

import httpx
import pytest

from tests.docker.stack import Stack, docker, inspect, photograph, top_label
from tests.support.eventually import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.mark.parametrize("whole", [False, True])
def test_stop_drains_requests_in_flight(stack: Stack, whole: bool) -> None:
    """Stop the only replica, or with `whole` the whole stack, while a request is in flight."""
    stack.up(MAX_QUEUE="1")
    (service,), (proxy,) = stack.containers("service"), stack.containers("proxy")
    body = photograph() + bytes(
        400_000
    )  # more than the proxy buffers; data after the end of a JPEG is ignored
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    port = int(stack.settings["PORT"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        connection.sendall(head + body[:-1])
        # The request above has been admitted when others get 429.
        eventually(lambda: stack.client.post("/predict", content=photograph()).status_code == 429)
        stopping = pool.submit(stack.do, "stop") if whole else pool.submit(docker, "stop", service)
        eventually(lambda: not reachable(stack))
        connection.sendall(body[-1:])
        raw = HTTPResponse(connection)
        raw.begin()
        answer = httpx.Response(raw.status, content=raw.read())
        stopping.result()
    assert top_label(answer) == "red"
    assert inspect(service)["State"]["ExitCode"] == 0
    if whole:
        assert inspect(proxy)["State"]["ExitCode"] == 0
    else:
        # On a new connection: HAProxy closes one that it kept alive, so that the client retries.
        refused = httpx.get(f"{stack.client.base_url}/health", timeout=60)
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert refused.headers["content-type"] == "application/problem+json"


def reachable(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.client.base_url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("command", "replicas"), [("kill", 3), ("stop", 3), ("restart", 2)])
def test_losing_a_replica_loses_at_most_its_requests_in_flight(
    stack: Stack, command: str, replicas: int
) -> None:
    """A stopped or restarted replica loses no request; a killed one, at most one for each client."""
    stack.up("--scale", f"service={replicas}")
    services = stack.containers("service")
    assert len(services) == replicas
    data, ended = photograph(), threading.Event()
    labels: list[str] = []
    cut_off: list[str] = []

    def post_until_the_end() -> None:
        while not ended.is_set():
            try:
                answer = stack.client.post("/predict", content=data)
            except (httpx.RemoteProtocolError, httpx.ReadError) as error:
                cut_off.append(str(error))
                continue
            if answer.status_code == 502:
                cut_off.append(answer.json()["code"])
            else:
                labels.append(top_label(answer))

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(post_until_the_end) for _ in range(8)]

        def answered(more: int) -> int:
            """Wait for so many more labels; return how many there are then."""
            target = len(labels) + more
            eventually(lambda: len(labels) >= target or any(client.done() for client in clients), 600)
            return len(labels)

        before = answered(200)
        docker(command, services[0])
        answered(400)
        ended.set()
    for client in clients:
        client.result()

    lines = docker("logs", *stack.containers("proxy")).splitlines()
    requests = [json.loads(line) for line in lines if line.startswith("{")]
    retries = sum(int(request["retries"].strip("+")) for request in requests)
    print(
        f"{command}: {before} + {len(labels) - before} answers, {retries} retries, {len(cut_off)} cut off"
    )
    assert len({request["replica"] for request in requests}) == replicas
    assert len(labels) > before > 0
    assert set(labels) == {"red"}
    if command == "kill":
        assert len(cut_off) <= 8, "one for each client"
    else:
        assert not cut_off


def test_killed_replica_is_restarted_each_time(stack: Stack) -> None:
    """Kill the process from outside: Docker does not restart after `docker kill`."""
    stack.up()
    (service,) = stack.containers("service")
    for kills in range(1, 6):
        code = f"import os; os.kill({inspect(service)['State']['Pid']}, 9)"
        outside = ("run", "--rm", "--pid", "host", "--user", "0", "--entrypoint", "python")
        docker(*outside, "alexnet-test-proxy", "-c", code)
        eventually(partial(restarted, service, kills), within=120)
    # The proxy has its own health checks, which take a moment.
    eventually(lambda: stack.client.get("/health/ready").status_code != 503)
    assert top_label(stack.client.post("/predict", content=photograph())) == "red"
    docker("stop", service)
    assert not inspect(service)["State"]["Running"]


def restarted(container: str, times: int) -> bool:
    return inspect(container)["RestartCount"] >= times and healthy(container)


def healthy(container: str) -> bool:
    state = inspect(container)["State"]
    return bool(state["Running"]) and state["Health"]["Status"] == "healthy"

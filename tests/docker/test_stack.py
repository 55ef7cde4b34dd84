"""Test `docker compose up` as users and operators run it."""

import hashlib
import json
import ssl
import time
from pathlib import Path

import httpx
import pytest

from tests.docker.stack import Stack, docker, inspect, photograph, top_label
from tests.support.eventually import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


PROBE = """
import json, os
from pathlib import Path

def writable(path):
    try:
        Path(path, "x").write_text("x")
    except OSError as error:
        return error.strerror
    return "yes"

status = dict(line.split(":\\t") for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16),
    "no_new_privileges": status["NoNewPrivs"],
    "writable": {path: writable(path) for path in ("/", "/tmp", "/var/tmp", "/app", "/models")},
    "pid1": Path("/proc/1/cmdline").read_bytes().decode().split("\\0")[0],
}))
"""


def test_service_image_is_small_and_labelled(bench: Stack) -> None:
    image = inspect("alexnet-test-service")
    config = image["Config"]
    print(f"service image: {image['Size'] / 1e6:.0f} MB")
    assert image["Size"] <= 700e6
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.revision"] == "0123abc"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    look = (
        "import importlib.util as u, shutil\n"
        "print([n for n in ('torch', 'training', 'pytest') if u.find_spec(n)], shutil.which('gcc'))"
    )
    output = docker("run", "--rm", "--entrypoint", "python", "alexnet-test-service", "-c", look)
    assert output.strip() == "[] None"


def test_stack_serves_the_trained_model(stack: Stack, model: Path, user: tuple[int, int]) -> None:
    run = Path(stack.settings["RUNS"]) / "mine" / "best.pt"
    assert [(p.stat().st_uid, p.stat().st_gid) for p in (run, model)] == [user, user]
    stack.up()
    answer = stack.client.post("/predict", files={"file": photograph()})
    assert top_label(answer) == "red"
    assert answer.json()["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert top_label(stack.client.post("/predict", content=photograph())) == "red"
    assert stack.client.get("/health").json()["provider"] == "CPUExecutionProvider"
    assert stack.client.post("/predict", content=b"no image").json()["code"] == "unsupported_image"
    large = stack.client.post("/predict", content=bytes(25_000_000))
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    (service,) = stack.containers("service")
    service_log = [json.loads(line) for line in docker("logs", service).splitlines()]  # stdout alone
    assert [line["status"] for line in service_log if line.get("path") == "/predict"] == [
        200,
        200,
        415,
        413,
    ]
    # Both logs have a line for each request, and none for health checks.
    (proxy,) = stack.containers("proxy")
    lines = [json.loads(line) for line in docker("logs", proxy).splitlines() if line.startswith("{")]
    ours = {line["request_id"]: (line["path"], line["client"]) for line in service_log if "path" in line}
    theirs = {line["request_id"]: (line["path"], line["client"]) for line in lines}
    assert ours.items() <= theirs.items()
    assert {path for path, _client in theirs.values()} == {"/predict"}


def test_service_becomes_healthy(stack: Stack) -> None:
    started = time.monotonic()
    stack.do("up", "-d", "--no-deps", "service")
    (service,) = stack.containers("service")
    statuses: list[str] = []

    def healthy_now() -> bool:
        status = inspect(service)["State"]["Health"]["Status"]
        statuses.extend([status] if status not in statuses else [])
        return "healthy" in statuses

    eventually(healthy_now, within=60)
    print(f"healthy after {time.monotonic() - started:.1f} s")
    assert statuses == ["starting", "healthy"]


@pytest.mark.parametrize("name", ["service", "proxy", "prometheus"])
def test_container_is_hardened(stack: Stack, name: str) -> None:
    stack.up(name)
    (container,) = stack.containers(name)
    probe = json.loads(docker("exec", container, "python", "-c", PROBE))
    assert probe["uid"] == 10001
    assert probe["capabilities"] == 0
    assert probe["no_new_privileges"] == "1"
    assert probe["pid1"] == {"service": "python", "proxy": "haproxy", "prometheus": "prometheus"}[name]
    assert probe["writable"].pop("/tmp") == "yes"
    if name != "service":
        del probe["writable"]["/app"], probe["writable"]["/models"]
    assert set(probe["writable"].values()) == {"Read-only file system"}
    host = inspect(container)["HostConfig"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    ports = inspect(container)["NetworkSettings"]["Ports"]
    published = {port: [where["HostIp"] for where in places] for port, places in ports.items() if places}
    loopback = ["127.0.0.1"]
    expected = {"service": {}, "proxy": {"8000/tcp": loopback}, "prometheus": {"9090/tcp": loopback}}
    assert published == expected[name]


def test_every_service_is_configured_as_hardened(bench: Stack) -> None:
    """Checks the configuration, so that Grafana, whose image is not available, is included."""
    services = json.loads(bench.do("--profile", "*", "config", "--format", "json"))["services"]
    assert set(services) == {"service", "proxy", "training", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert service["pids_limit"] > 0, name
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MAX_BATCH": "zero"}, "error: MAX_BATCH is 'zero'; it must be a whole number"),
        ({"MODEL": "models/none.onnx"}, "error: no model file none.onnx; set MODEL to one"),
        ({"DEVICE": "cuda"}, "error: DEVICE=cuda, but this ONNX Runtime has no CUDA provider"),
    ],
)
def test_invalid_variable_is_reported(stack: Stack, settings: dict[str, str], message: str) -> None:
    done = stack.compose("up", **settings)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert message in output
    assert "Traceback" not in output


def test_missing_folder_is_reported(stack: Stack) -> None:
    done = stack.compose(
        "run", "--rm", "training", "train", "--data", "/data", "--out", "/runs/x", RUNS="/none"
    )
    assert done.returncode != 0
    assert "bind source path does not exist: /none" in done.stderr


def test_stopped_training_leaves_a_checkpoint(stack: Stack) -> None:
    long = ["--width", "0.05", "--epochs", "100000", "--batch-size", "8", "--weight-init", "kaiming"]
    command = ("training", "train", "--data", "/data", "--out", "/runs/stopped", *long)
    name = stack.do("run", "-d", *command).strip()
    checkpoint = Path(stack.settings["RUNS"]) / "stopped" / "last.pt"
    try:

        def saved() -> bool:
            assert inspect(name)["State"]["Running"], docker("logs", name)
            return checkpoint.exists()

        eventually(saved, within=600)
        docker("stop", name)
        assert inspect(name)["State"]["ExitCode"] == 130
    finally:
        docker("rm", "-f", name)
    evaluation = stack.do("run", "--rm", "training", "evaluate", "/runs/stopped", "--data", "/data")
    assert "top-1" in evaluation


def test_api_key_is_required(stack: Stack, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(b"a key").hexdigest() + "\n")
    stack.up(API_KEYS_FILE=str(keys))
    assert stack.client.post("/predict", content=photograph()).status_code == 401
    right = {"Authorization": "Bearer a key"}
    assert top_label(stack.client.post("/predict", content=photograph(), headers=right)) == "red"


def test_stack_serves_over_tls(stack: Stack, tmp_path: Path) -> None:
    new = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    new += " -addext subjectAltName=IP:127.0.0.1 -keyout /dev/stdout -out /dev/stdout"
    pem = tmp_path / "tls.pem"
    pem.write_text(docker("run", "--rm", "--entrypoint", "sh", "alexnet-test-proxy", "-c", new))
    stack.up(TLS_FILE=str(pem))
    address = f"https://127.0.0.1:{stack.settings['PORT']}"
    trust = ssl.create_default_context(cafile=str(pem))
    assert top_label(httpx.post(f"{address}/predict", content=photograph(), verify=trust)) == "red"


def test_gpu_override_requests_a_gpu(bench: Stack) -> None:
    files = ("-f", "docker-compose.yml", "-f", "docker-compose.gpu.yml", "--profile", "training")
    services = json.loads(bench.do(*files, "config", "--format", "json"))["services"]
    assert services["service"]["environment"]["DEVICE"] == "cuda"
    assert services["service"]["build"]["args"]["RUNTIME"] == "gpu"
    for name in ("service", "training"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"

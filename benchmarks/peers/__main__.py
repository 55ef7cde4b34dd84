"""Compare the service with other servers on the same model file, photographs and load.

    python -m benchmarks.peers --model FILE.onnx

Each server is installed into a separate virtual environment, with the same versions of ONNX Runtime, NumPy
and Pillow as the service. In each round, every server is started, loaded at each number of connections and
stopped, so that disturbances of the machine affect all of them. The figure of a server is the mean of its
rounds. Servers that batch may answer 32 images three times a second, so one batch more or less changes
short measurements by a tenth.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import httpx

from benchmarks.limit import photographs
from benchmarks.serve import load
from benchmarks.support.load import message
from benchmarks.support.machine import memory_mb

REQUIREMENTS = {  # "plain" needs no more than the service
    "plain": [],
    "litserve": ["litserve==0.2.19", "python-multipart"],
    "mosec": ["mosec==0.9.8"],
    "bentoml": ["bentoml==1.4.40"],
    "mlserver": ["mlserver==1.7.1", "uvloop<0.22"],
    "ray": ["ray[serve]==2.60.0"],
}
SAME_VERSIONS = ("onnxruntime", "numpy", "pillow")
# Form of the body by server; the others take bare bodies.
FORMS = {"litserve": "multipart", "bentoml": "multipart", "mlserver": "v2"}
CONNECTIONS = (1, 8, 32, 64)
START_S = 60.0


def install(name: str, folder: Path) -> Path:
    """Install a server, unless it is installed; return the path of its Python."""
    if not REQUIREMENTS.get(name):
        return Path(sys.executable)
    python = folder / name / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        pinned = [f"{package}=={version(package)}" for package in SAME_VERSIONS]
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS[name], *pinned], check=True)
    return python


@contextmanager
def started(name: str, python: Path, model: Path, photo: Path) -> Iterator[tuple[str, int]]:
    """Run a server; once it has classified a photograph, yield its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    module = "service" if name == "service" else f"benchmarks.peers.with_{name}"
    environ = {"MODEL": str(model), "PORT": port, "MOSEC_PORT": port, "MOSEC_ADDRESS": "127.0.0.1"}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [python, "-m", module],
            env=os.environ | environ | {"DEVICE": "cpu", "PYTHONPATH": str(Path.cwd())},
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            end = time.monotonic() + START_S
            while not answers(url, photo, FORMS.get(name, "bare")):
                if time.monotonic() > end or process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"error: {name} does not answer: {log.read()[-2000:].decode()}")
                time.sleep(0.2)
            yield url, process.pid
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            # Child processes that are left would slow down the next server.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def answers(url: str, photo: Path, form: str) -> bool:
    path, headers, body = message(photo.read_bytes(), form)
    try:
        answer = httpx.post(url + path, timeout=30, content=body, headers=headers)
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and "predictions" in answer.text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    names = ["service", *REQUIREMENTS]
    parser.add_argument("--servers", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--environments", type=Path, default=Path(".venv-peers"), help="folder for the virtual environments"
    )
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: drawn, 101 KB each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="per load")
    parser.add_argument("--json", type=Path, help="file for all results")
    args = parser.parse_args()
    results: dict[str, dict[int, list[dict[str, Any]]]] = {
        name: {count: [] for count in CONNECTIONS} for name in args.servers
    }
    memory = dict.fromkeys(args.servers, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        photos = photographs(args.images, False, Path(folder))
        pythons = {name: install(name, args.environments) for name in args.servers}
        for number in range(args.rounds):
            for name in args.servers:
                with started(name, pythons[name], args.model, photos[0]) as (url, pid):
                    form = ["--form", FORMS.get(name, "bare")]
                    for count in CONNECTIONS:
                        options = ["--connections", count, "--seconds", args.seconds, *form]
                        result, steal = load(url, photos[0].parent, *options)
                        results[name][count].append(result | {"steal": steal})
                    memory[name] = max(memory[name], memory_mb(pid))
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    show(results, memory)
    if args.json is not None:
        args.json.write_text(json.dumps({"loads": results, "memory_mb": memory}, indent=1))


def show(results: dict[str, dict[int, list[dict[str, Any]]]], memory: dict[str, float]) -> None:
    print(f"{'images/s at':<12}" + "".join(f"{count:>8}" for count in CONNECTIONS) + "  p50 single     MB")
    for name, loads in results.items():
        rates = "".join(
            f"{mean(run['images_per_s'] for run in loads[count]):8.1f}" for count in CONNECTIONS
        )
        single_ms = mean(run["p50_ms"] for run in loads[1])
        errors: Counter[str] = Counter()
        for run in chain.from_iterable(loads.values()):
            errors.update(run["errors"])
        print(f"{name:<12}{rates}{single_ms:9.1f} ms{memory[name]:7.0f}  {dict(errors) or ''}")
    steal = max(run["steal"] for loads in results.values() for runs in loads.values() for run in runs)
    print(f"steal at most {steal:.1f} %")


if __name__ == "__main__":
    main()

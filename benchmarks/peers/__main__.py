"""The service and other servers with one and the same file, photographs and load, by turns.

    python -m benchmarks.peers --model FILE.onnx

Each is installed into a virtual environment of its own, with ONNX Runtime, NumPy and Pillow of the versions
that the service has. In each round every server is started, asked at each number of connections and stopped
again, so that what the machine does meanwhile meets all of them alike. A server's figure is the mean of its
rounds. Batches of 32 are answered three times a second: where loads are short, one batch more or less that
falls into them is a tenth of what they find.
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

REQUIREMENTS = {  # what one writes first needs no more than the service
    "plain": [],
    "litserve": ["litserve==0.2.19", "python-multipart"],
    "mosec": ["mosec==0.9.8"],
    "bentoml": ["bentoml==1.4.40"],
    "mlserver": ["mlserver==1.7.1", "uvloop<0.22"],
    "ray": ["ray[serve]==2.60.0"],
}
SAME = ("onnxruntime", "numpy", "pillow")
FORMS = {"litserve": "multipart", "bentoml": "multipart", "mlserver": "v2"}  # the others' is bare
CONNECTIONS = (1, 8, 32, 64)
START_S = 60.0


def install(name: str, folder: Path) -> Path:
    """-> its Python"""
    if not REQUIREMENTS.get(name):
        return Path(sys.executable)
    python = folder / name / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        same = [f"{package}=={version(package)}" for package in SAME]
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS[name], *same], check=True)
    return python


@contextmanager
def started(name: str, python: Path, model: Path, photo: Path) -> Iterator[tuple[str, int]]:
    """-> its address and process id, once it has answered about a photograph."""
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
            with suppress(ProcessLookupError):  # what it has left behind would take time from the next
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
    parser.add_argument("--environments", type=Path, default=Path(".venv-peers"), help="folder for them")
    parser.add_argument("--images", type=Path, help="folder of JPEG files; default: drawn, 101 KB each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    args = parser.parse_args()
    found: dict[str, dict[int, list[dict[str, Any]]]] = {
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
                        found[name][count].append(result | {"steal": steal})
                    memory[name] = max(memory[name], memory_mb(pid))
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    show(found, memory)
    if args.json is not None:
        args.json.write_text(json.dumps({"loads": found, "memory_mb": memory}, indent=1))


def show(found: dict[str, dict[int, list[dict[str, Any]]]], memory: dict[str, float]) -> None:
    print(f"{'images/s at':<12}" + "".join(f"{count:>8}" for count in CONNECTIONS) + "   p50 alone     MB")
    for name, loads in found.items():
        rates = "".join(
            f"{mean(one['images_per_s'] for one in loads[count]):8.1f}" for count in CONNECTIONS
        )
        alone = mean(one["p50_ms"] for one in loads[1])
        errors: Counter[str] = Counter()
        for one in chain.from_iterable(loads.values()):
            errors.update(one["errors"])
        print(f"{name:<12}{rates}{alone:9.1f} ms{memory[name]:7.0f}  {dict(errors) or ''}")
    steal = max(one["steal"] for loads in found.values() for runs in loads.values() for one in runs)
    print(f"steal at most {steal:.1f} %")


if __name__ == "__main__":
    main()

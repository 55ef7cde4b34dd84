"""Copy this checkout as a fresh clone, and run the commands of its documents."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.support.eventually import TIMEOUT_S, eventually

ROOT = Path(__file__).parents[2]


def clone(target: Path) -> Path:
    """Copy every file that git would commit to `target`, without build results."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def tracked(*patterns: str) -> list[Path]:
    """Return the files of this checkout that match the globs and are not ignored by git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    globs = [f":(glob){pattern}" for pattern in patterns]
    listed = subprocess.run([*command, *globs], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [
        ROOT / name for name in sorted(set(filter(None, listed.split("\0")))) if (ROOT / name).is_file()
    ]


def documents() -> list[Path]:
    """Return every Markdown file of this checkout."""
    return tracked("**/*.md")


def commands(document: Path) -> list[str]:
    """Return the lines of the sh blocks of a Markdown file."""
    return [line for block in _blocks(document, "sh") for line in block.splitlines()]


def scripts_of(document: Path) -> list[str]:
    """Return the python blocks of a Markdown file."""
    return _blocks(document, "python")


def _blocks(document: Path, language: str) -> list[str]:
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.M | re.S)
    return blocks


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def environ(**changes: str) -> dict[str, str]:
    # Without CI: it disables the telemetry of ONNX Runtime, whose absence is tested.
    left_out = {"CI", "HOST", "PORT", "MODEL", "PYTHONPATH"}
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    return {**environment, "DEVICE": "cpu", **changes}


@contextmanager
def serving(command: str, cwd: Path, env: dict[str, str], seconds: float) -> Iterator[str]:
    """Run a command that serves on env["PORT"]; once it is healthy, yield what it has printed."""
    printed = cwd / "printed"
    with (
        printed.open("w") as output,
        subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=cwd, env=env, stdout=output) as process,
    ):
        try:
            wait_until_healthy(process, int(env["PORT"]), seconds)
            yield printed.read_text()
        finally:
            process.terminate()
    assert process.returncode == 0


def wait_until_healthy(process: "subprocess.Popen[Any]", port: int, within: float = TIMEOUT_S) -> None:
    """Wait for a server on this port. Raises AssertionError as soon as its process ends."""

    def serves() -> bool:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        return healthy(port)

    eventually(serves, within)


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def draw_photos(folder: Path, classes: tuple[str, ...], count: int) -> None:
    """Write `count` JPEGs per class to `folder`; the classes differ in colour."""
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            colour = tuple(60 + 15 * number if channel == index % 3 else 40 for channel in range(3))
            Image.new("RGB", (280, 260), colour).save(folder / name / f"{number}.jpg")

"""Test that files created in a checkout stay out of commits and of the images."""

import subprocess
from pathlib import Path

from tests.support.checkout import ROOT

CREATED = (
    *("data/daisy/1.jpg", "photos/train/daisy/1.jpg", "ready/train.bin", "runs/mine/best.pt"),
    *(
        "models/mine.onnx",
        "models/mine.md",
        "models/mine/2/model.onnx",
        "models/mine.partial",
        ".env",
        "nohup.out",
    ),
    *(
        "alexnet_client/build/lib/alexnet_client/client.py",
        "alexnet_client/alexnet_client.egg-info/PKG-INFO",
    ),
)
COMMITTED = (
    "models/flowers17.onnx",
    "models/flowers17.md",
    "training/data/images.py",
    "alexnet_client/client.py",
)


def test_git_ignores_created_files() -> None:
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        input="\n".join((*CREATED, *COMMITTED)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == list(CREATED)


def test_docker_context_has_only_listed_files() -> None:
    everything, *rest = (
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    )
    assert everything == "*"
    listed = {line.removeprefix("!") for line in rest if line.startswith("!")}
    assert {Path(name).parts[0] for name in listed}.isdisjoint(
        Path(name).parts[0] for name in CREATED if not name.startswith("alexnet_client")
    )
    assert {"alexnet_client/build", "**/*.egg-info"} <= set(rest)

"""Where a run comes from: what goes into the checkpoint and, from there, into the manifest."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from training.data.prepared import Dataset


def run_provenance(data: Dataset) -> dict[str, Any]:
    """`split` says how one tree was divided, so that what was held out can be found again."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "revision": revision(),
        "data": data.name,
        "images": len(data.train),
        "split": data.split,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "seconds": 0.0,
    }


def revision() -> str:
    """The checkout's commit, with "+" if it was changed since; else what REVISION says, as in an image."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("REVISION", "unknown")
    return commit.stdout.strip() + ("+" if changes.stdout else "")

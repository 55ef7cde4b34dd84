"""Record where a run comes from, for the checkpoint and the manifest of its exports."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from training.data.measured_on import digest_of_all
from training.data.prepared import Dataset


def run_provenance(data: Dataset) -> dict[str, Any]:
    """Collect the provenance of a new run: date, revision, data, versions.

    `split` says how one tree was divided, so that the held-out photographs can be found again.
    `background` identifies the background pictures, None without any.
    """
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "revision": revision(),
        "data": data.name,
        "images": len(data.train),
        "split": data.split,
        "background": background_record(data),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "seconds": 0.0,
    }


def background_record(data: Dataset) -> dict[str, Any] | None:
    """Identify the background pictures by number and digest; None without any."""
    if data.background is None:
        return None
    return {"pictures": len(data.background), "digest": digest_of_all(data.background.digests)}


def revision() -> str:
    """Return the checkout's commit, with "+" if it has changes; in an image, the variable REVISION."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("REVISION", "unknown")
    return commit.stdout.strip() + ("+" if changes.stdout else "")

"""Test that benchmarks/peers starts the servers it compares and prints a row for each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

SHIPPED = ROOT / "models" / "flowers17.onnx"


@pytest.mark.slow
def test_the_service_and_a_naive_fastapi_server(tmp_path: Path) -> None:
    measured = tmp_path / "peers.json"
    command = [sys.executable, "-m", "benchmarks.peers", "--model", str(SHIPPED), "--rounds", "1"]
    done = subprocess.run(
        [*command, "--servers", "service", "plain", "--seconds", "0.5", "--json", str(measured)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, *rows, steal = done.stdout.splitlines()
    assert head.split()[2:6] == ["1", "8", "32", "64"]
    assert [row.split()[0] for row in rows] == ["service", "plain"]
    assert steal.startswith("steal at most")
    for row in rows:
        name, *cells = row.split()
        loads = json.loads(measured.read_text())["loads"][name]
        assert [float(cell) for cell in cells[:4]] == [
            round(load["images_per_s"], 1) for (load,) in loads.values()
        ]
        # At 64 connections, the first response may take a slow machine longer than the measurement.
        assert loads["1"][0]["images_per_s"] > 0
        assert float(cells[6]) > 0, "MB"
        assert all(load["errors"] == {} and load["unanswered"] == 0 for (load,) in loads.values())

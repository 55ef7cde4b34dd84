"""benchmarks/peers starts what it compares, asks it, and prints a row for each."""

import subprocess
import sys

from tests.checkout import ROOT

SHIPPED = ROOT / "models" / "flowers17.onnx"


def test_the_service_and_what_one_writes_first() -> None:
    command = [sys.executable, "-m", "benchmarks.peers", "--model", str(SHIPPED), "--rounds", "1"]
    done = subprocess.run(
        [*command, "--servers", "service", "plain", "--seconds", "0.3"],
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
    assert all(float(cell) > 0 for row in rows for cell in row.split()[1:6])
    assert steal.startswith("steal at most")

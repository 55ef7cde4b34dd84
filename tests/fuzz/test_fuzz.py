"""Run the fuzzer for ten seconds, to keep it working; longer runs are started by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

pytest.importorskip("atheris", reason="the extra `fuzz` is not installed")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fuzzer_finds_nothing_in_ten_seconds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.decode", "10", tmp_path],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr
    assert not list(tmp_path.glob("*-*")), "findings"
    assert list((tmp_path / "grown").iterdir()), "nothing new was reached: is Pillow instrumented?"

"""Test that the benchmarks run, at sizes too small to measure speed."""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from benchmarks.decode_limit import decode_ceiling
from benchmarks.serve import goals, server
from benchmarks.support.images import SMALL, draw_photographs
from tests.support.checkout import ROOT

SHIPPED = ROOT / "models" / "flowers17.onnx"


@pytest.mark.slow
def test_serve_benchmark(tmp_path: Path) -> None:
    draw_photographs(tmp_path, 2, SMALL)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.serve",
            "--images",
            tmp_path,
            "--seconds",
            "0.3",
            "--turns",
            "2",
            "--connections",
            "1",
            "4",
            "--json",
            tmp_path / "results.json",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[1:3]] == ["connections"] * 2
    assert all(float(line.split()[2]) > 0 for line in lines[1:3])
    assert [line.split(",")[0] for line in lines[-2:]] == ["single request", "at 70 % load"], (
        "goals of the measured loads"
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["loads"].keys() == {"1 connections", "4 connections", "70 % of the best", "150 %"}
    assert all(load["client_core_ms"] > 0 for load in results["loads"].values())
    for load in results["loads"].values():
        turns = load["turns"]
        assert len(turns["images_per_s"]) == len(turns["limit"]) == 2
        assert load["of_limit"] == pytest.approx(sum(turns["images_per_s"]) / sum(turns["limit"]))
        assert load["p50_ms"] <= load["p95_ms"] <= load["p99_ms"]


@pytest.mark.slow
def test_versions_benchmark_of_a_checkout_with_itself(tmp_path: Path) -> None:
    draw_photographs(tmp_path, 2, SMALL)
    options: list[str | Path] = ["--old", ROOT, "--images", tmp_path, "--json", tmp_path / "results.json"]
    options += ["--form", "ten crops", "--connections", "2", "--seconds", "0.5", "--turns", "2"]
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.versions", *options]
    subprocess.run(command, cwd=ROOT, check=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results.keys() == {"2 connections", "70% of the best"}
    for row in results.values():
        new, old = row["new"], row["old"]
        assert new["errors"] == old["errors"] == []
        assert row["images_per_s"][0] == pytest.approx(new["images_per_s"] / old["images_per_s"])


def test_cores_decode_without_a_model_loaded(tmp_path: Path) -> None:
    draw_photographs(tmp_path, 2, SMALL)
    with decode_ceiling(SHIPPED, tmp_path) as turn:
        assert turn("limit", 0.1) > 0


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="there is a provider")
def test_server_gets_the_device_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEVICE", "cuda")
    with pytest.raises(SystemExit), server(SHIPPED, checkout=ROOT):
        pass
    assert "DEVICE=cuda, but" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("device", "line"),
    [
        ("cpu", "at 32 connections 0.50 of the limit (goal: at least 0.85)\n"),
        ("cuda", "at best 0.75 of what the cores can decode (goal: at least 0.8)\n"),
    ],
)
def test_goals_are_those_of_the_device(
    device: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEVICE", device)
    rows = {"32 connections": 0.5, "128 connections": 0.75, "150 %": 0.9}
    goals({name: {"of_limit": share} for name, share in rows.items()})
    assert capsys.readouterr().out == line


def test_drawn_photographs_have_the_size_of_real_ones(tmp_path: Path) -> None:
    (file,) = draw_photographs(tmp_path, 1, SMALL)
    assert 90_000 < file.stat().st_size < 130_000

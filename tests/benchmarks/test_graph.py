"""Test that benchmarks/graph.py prints a row for each graph."""

import pytest

from benchmarks import graph


@pytest.mark.slow
def test_every_graph_is_printed_at_every_batch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graph, "SECONDS", 0.2)
    graph.main(["--width", "0.05", "--batches", "1", "3"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.split()[:1] in (["1"], ["3"])]
    assert [(row[0], row[1]) for row in rows] == [
        (batch, name) for batch in ("1", "3") for name in (graph.BASE, "TorchScript's", "fp32", "int8")
    ]
    assert all(float(row[2]) > 0 for row in rows)
    assert [float(row[3]) for row in rows if row[1] == graph.BASE] == [1, 1]
    assert sum("in convolutions and products; then" in line for line in lines) == 4

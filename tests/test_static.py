"""Test that the lint rules of pyproject.toml find typical mistakes in every package."""

import ast
import json
import re
import subprocess
import sys

import pytest

from tests.support.checkout import ROOT

PACKAGES = ("alexnet_client", "contract", "service", "training", "benchmarks", "scripts")
MISTAKES = {
    "E722": "try:\n    pass\nexcept:\n    pass\n",
    "S110": "try:\n    print()\nexcept Exception:\n    pass\n",
    "S301": 'import pickle\n\npickle.loads(b"")\n',
    "S602": 'import subprocess\n\nsubprocess.run("ls *", shell=True, check=True)\n',
    "S307": 'eval("1")\n',
    "S501": 'import httpx\n\nhttpx.get("https://x", verify=False)\n',
    "ASYNC251": "import time\n\n\nasync def f() -> None:\n    time.sleep(1)\n",
    "ASYNC230": 'async def f() -> None:\n    open("x")\n',
    "ASYNC240": 'from pathlib import Path\n\n\nasync def f() -> None:\n    Path("x").exists()\n',
    "ASYNC221": 'import subprocess\n\n\nasync def f() -> None:\n    subprocess.run(["x"])\n',
    "PGH003": "x: int = 1  # type: ignore\n",
}


def violations(file: str, text: str) -> set[str]:
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "json", "--no-cache"]
    done = subprocess.run(
        [*command, "--stdin-filename", file, "-"],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return {entry["code"] for entry in json.loads(done.stdout)}


@pytest.mark.parametrize("package", PACKAGES)
def test_ruff_finds_the_mistakes(package: str) -> None:
    assert violations(f"{package}/made_up.py", "".join(MISTAKES.values())) >= MISTAKES.keys()


def test_ruff_finds_mistakes_in_tests() -> None:
    assert violations("tests/test_made_up.py", MISTAKES["E722"] + MISTAKES["S602"]) >= {"E722", "S602"}


def unsafe_loads(text: str) -> list[int]:
    """Return lines that load a file in a way that may run code; ruff has no rule for torch.load."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.jit", "numpy"}:
            lines += [node.lineno for name in node.names if name.name == "load"]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        torch_load = called.endswith("torch.load") and keywords.get("weights_only") != "True"
        numpy_load = called.endswith(".load") and keywords.get("allow_pickle", "False") != "False"
        if torch_load or numpy_load or called.endswith("torch.jit.load"):
            lines.append(node.lineno)
    return lines


def test_no_file_is_loaded_in_an_unsafe_way() -> None:
    for package in (*PACKAGES, "tests"):
        for file in (ROOT / package).rglob("*.py"):
            assert unsafe_loads(file.read_text()) == [], file


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("torch.load(p, weights_only=True)", []),
        ("np.load(p); json.load(f); image.load()", []),
        ("torch.load(p)", [1]),
        ("torch.load(p, weights_only=False)", [1]),
        ("torch.load(p, weights_only=safe)", [1]),
        ("from torch import load", [1]),
        ("\nnp.load(p, allow_pickle=True)", [2]),
        ("torch.jit.load(p)", [1]),
    ],
)
def test_unsafe_loads_are_recognised(text: str, lines: list[int]) -> None:
    assert unsafe_loads(text) == lines


def test_no_rule_is_disabled_for_a_whole_file() -> None:
    """pyproject.toml makes exceptions only for the tests."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert not re.search(r"ruff: *noqa|flake8: *noqa|mypy: *ignore-errors", file.read_text()), file


def test_check_covers_every_generated_file() -> None:
    command = ["git", "grep", "-lF", "[[[" + "end]]]"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = re.findall(r"^generated=\((.*)\)$", (ROOT / "scripts/check").read_text(), re.M)
    assert set(line.split()) == set(listed.stdout.split())


def test_check_types_every_package() -> None:
    (line,) = (x for x in (ROOT / "scripts/check").read_text().splitlines() if "/mypy" in x)
    assert {*PACKAGES, "tests"} <= set(re.findall(r"\w+", line))

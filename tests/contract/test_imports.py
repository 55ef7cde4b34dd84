"""Imports point one way: training and service -> contract; the service knows no torch and no training."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# -> the top-level modules loaded by the imports that lie in site-packages or in this checkout.
LOADED = """
import importlib, json, os, sys
before = set(sys.modules)  # what .pth files bring in is not ours
for name in sys.argv[1:]:
    importlib.import_module(name)
found = set()
for name in set(sys.modules) - before:
    file = getattr(sys.modules[name], "__file__", None) or ""
    if "site-packages" in file or file.startswith(os.getcwd()):
        found.add(name.split(".")[0])
print(json.dumps(sorted(found)))
"""


def loaded_by(*modules: str) -> set[str]:
    command = [sys.executable, "-c", LOADED, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def modules_of(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files]


def imports_of(package: str) -> dict[str, set[str]]:
    """file -> the top-level modules that it imports anywhere in it."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                names.add((node.module or "").split(".")[0])
        found[str(path.relative_to(ROOT))] = names
    assert len(found) > 1  # or the folder has moved
    return found


def test_the_service_loads_neither_torch_nor_training_nor_onnx() -> None:
    loaded = loaded_by(*modules_of("service"))
    assert {"service", "contract", "fastapi", "onnxruntime"} <= loaded
    assert not loaded & {"torch", "training", "onnx", "tests"}


def test_the_contract_loads_numpy_and_pillow_and_nothing_else() -> None:
    assert loaded_by(*modules_of("contract")) == {"contract", "numpy", "PIL"}


def test_training_does_not_load_the_service() -> None:
    loaded = loaded_by(*modules_of("training"))
    assert {"training", "contract", "torch"} <= loaded
    assert not loaded & {"service", "fastapi", "starlette", "uvicorn", "tests"}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("contract", {"service", "training", "torch", "onnx", "onnxruntime", "fastapi", "tests"}),
        ("training", {"service", "fastapi", "starlette", "uvicorn", "tests"}),
        ("service", {"training", "torch", "onnx", "tests"}),
    ],
)
def test_no_file_imports_against_the_arrows_not_even_within_a_function(
    package: str, forbidden: set[str]
) -> None:
    assert {
        file: names & forbidden for file, names in imports_of(package).items() if names & forbidden
    } == {}

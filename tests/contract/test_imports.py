"""Imports point one way: training -> contract <- service -> alexnet_client; the service knows no torch."""

import ast
import json
import re
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


@pytest.mark.parametrize(("image", "package"), [("service", "service"), ("training", "training")])
def test_an_image_has_every_package_that_is_loaded_in_it(image: str, package: str) -> None:
    ours = {name for name in loaded_by(*modules_of(package)) if (ROOT / name).is_dir()}
    dockerfile = (ROOT / f"docker/{image}.Dockerfile").read_text()
    assert set(re.findall(r"^COPY --chmod=755 (\w+) /app/\1$", dockerfile, re.M)) == ours
    assert ours <= {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}


def test_the_contract_loads_numpy_and_pillow_and_nothing_else() -> None:
    assert loaded_by(*modules_of("contract")) == {"contract", "numpy", "PIL"}


def test_the_client_loads_httpx_and_pydantic_and_nothing_of_ours() -> None:
    loaded = loaded_by("alexnet_client.client")
    assert {"alexnet_client", "httpx", "pydantic"} <= loaded
    assert not loaded & {"service", "contract", "training", "numpy", "fastapi", "tests"}


def test_the_answers_are_read_without_httpx() -> None:
    """By the service, which has no use for it."""
    assert "httpx" not in loaded_by("alexnet_client.schemas")


def test_training_does_not_load_the_service() -> None:
    loaded = loaded_by(*modules_of("training"))
    assert {"training", "contract", "torch"} <= loaded
    assert not loaded & {"alexnet_client", "service", "fastapi", "starlette", "uvicorn", "tests"}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("alexnet_client", {"service", "contract", "training", "numpy", "fastapi", "tests"}),
        (
            "contract",
            {"alexnet_client", "service", "training", "torch", "onnx", "onnxruntime", "fastapi", "tests"},
        ),
        ("training", {"alexnet_client", "service", "fastapi", "starlette", "uvicorn", "tests"}),
        ("service", {"training", "torch", "onnx", "tests"}),
    ],
)
def test_no_file_imports_against_the_arrows_not_even_within_a_function(
    package: str, forbidden: set[str]
) -> None:
    assert {
        file: names & forbidden for file, names in imports_of(package).items() if names & forbidden
    } == {}

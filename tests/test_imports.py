"""Test which packages importing ours loads; scripts/check tests the layers of the modules."""

import json
import re
import subprocess
import sys

import pytest

from tests.support.checkout import ROOT

# Prints the top-level modules of site-packages and of this checkout that the imports load.
LOADED = """
import importlib, json, os, sys
before = set(sys.modules)  # .pth files may load modules too
for name in sys.argv[1:]:
    importlib.import_module(name)
loaded = set()
for name in set(sys.modules) - before:
    file = getattr(sys.modules[name], "__file__", None) or ""
    if "site-packages" in file or file.startswith(os.getcwd()):
        loaded.add(name.split(".")[0])
print(json.dumps(sorted(loaded)))
"""


def loaded_by(*modules: str) -> set[str]:
    command = [sys.executable, "-c", LOADED, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def modules_of(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files]


def test_service_loads_neither_torch_nor_training_nor_onnx() -> None:
    loaded = loaded_by(*modules_of("service"))
    assert {"service", "contract", "fastapi", "onnxruntime"} <= loaded
    assert not loaded & {"torch", "training", "onnx", "tests"}


@pytest.mark.parametrize(("image", "package"), [("service", "service"), ("training", "training")])
def test_image_has_every_package_that_it_loads(image: str, package: str) -> None:
    ours = {name for name in loaded_by(*modules_of(package)) if (ROOT / name).is_dir()}
    dockerfile = (ROOT / f"docker/{image}.Dockerfile").read_text()
    assert set(re.findall(r"^COPY --chmod=755 (\w+) /app/\1$", dockerfile, re.M)) == ours
    assert ours <= {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}


def test_contract_loads_only_numpy_and_pillow() -> None:
    assert loaded_by(*modules_of("contract")) == {"contract", "numpy", "PIL"}


def test_client_loads_no_other_package_of_ours() -> None:
    loaded = loaded_by("alexnet_client.client")
    assert {"alexnet_client", "httpx", "pydantic"} <= loaded
    assert not loaded & {"service", "contract", "training", "numpy", "fastapi", "tests"}


def test_client_schemas_do_not_load_httpx() -> None:
    """The service uses these schemas, and does not need httpx."""
    assert "httpx" not in loaded_by("alexnet_client.schemas")


def test_training_does_not_load_the_service() -> None:
    loaded = loaded_by(*modules_of("training"))
    assert {"training", "contract", "torch"} <= loaded
    assert not loaded & {"alexnet_client", "service", "fastapi", "starlette", "uvicorn", "tests"}


def test_inference_loads_no_http_framework() -> None:
    loaded = loaded_by("service.inference.engine", "service.cli.main")
    assert {"service", "onnxruntime"} <= loaded
    assert not loaded & {"fastapi", "starlette", "uvicorn"}

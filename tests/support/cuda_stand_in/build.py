"""Build stand-ins for the CUDA libraries that ONNX Runtime's CUDA provider needs. Needs gcc and nm.

    python -m tests.support.cuda_stand_in.build FOLDER
    LD_LIBRARY_PATH=FOLDER FAKE_LOG=calls python -m ...

cudart.c and cudnn.c are written by hand; every other function that the provider of the installed
onnxruntime-gpu asks for does nothing and returns 0.
"""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_SOURCES: Final = Path(__file__).parent
_CUDART: Final = "libcudart.so.13"
# Calls that are not logged, because there are thousands of them.
_QUIET: Final = ("Set", "Destroy", "Get", "Descriptor", "Status")
_CUBLAS: Final = """
int cublasCreate_v2(void **handle) { fake_log("cublasCreate"); *handle = malloc(8); return 0; }
const char *cublasGetStatusName(int status) { return "fake"; }
const char *cublasGetStatusString(int status) { return "fake"; }
"""


def build(folder: Path) -> None:
    """Write the libraries into a folder, under the names that the dynamic linker looks for."""
    folder.mkdir(parents=True, exist_ok=True)
    provider = _provider()
    wanted = re.findall(
        r"U ((?:__cuda|cublas|cuda|cu[A-Z])\w*)(?:@(\S+))?", _symbols(provider, "--undefined-only")
    )
    of = {name: {symbol for symbol, library in wanted if library == name} for _symbol, name in wanted}
    cudart = folder / _CUDART
    _compile(cudart, _SOURCES / "cudart.c", _versions(cudart), "-lpthread")
    defined = set(re.findall(r" T (\w+)", _symbols(cudart)))
    assert not (missing := of[_CUDART] - defined), f"cudart.c lacks {', '.join(sorted(missing))}"
    for name, source in (("libcublas.so.13", _CUBLAS), ("libcublasLt.so.13", "")):
        library = folder / name
        _compile(library, _stubs(library, of.get(name, set()), source), _versions(library), cudart)
    driver = "".join(f"int {symbol}(void) {{ return 0; }}\n" for symbol in of.get("", ()))
    for name, source in (("libcurand.so.10", ""), ("libcuda.so.1", driver)):
        _compile(folder / name, _stubs(folder / name, set(), source))
    # cuDNN's functions are looked up by name, so their names are in the provider.
    cudnn, source = folder / "libcudnn.so.9", (_SOURCES / "cudnn.c").read_text()
    names = {name.decode() for name in re.findall(rb"\bcudnn[A-Z]\w+", provider.read_bytes())}
    names -= set(re.findall(r"\b(cudnn\w+)\(", source))
    _compile(cudnn, _SOURCES / "cudnn.c", _stubs(cudnn, names), cudart)


def _provider() -> Path:
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"


def _symbols(library: Path, *options: str) -> str:
    command = ["nm", "-D", *options, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _compile(library: Path, *arguments: object) -> None:
    # cudart is beside the others, or where NVIDIA's packages have it, and comes before one of the machine.
    search = "-Wl,--disable-new-dtags,-rpath,$ORIGIN:$ORIGIN/../../cu13/lib"
    command = ["gcc", "-O1", "-w", "-fPIC", "-shared", "-o", library, f"-Wl,-soname,{library.name}", search]
    subprocess.run([*map(str, command), *map(str, arguments)], check=True)


def _versions(library: Path) -> str:
    """Write a version script: the provider asks for symbols of the library's version."""
    script = library.with_suffix(".map")
    script.write_text(f"{library.name} {{ global: *; }};\n")
    return f"-Wl,--version-script={script}"


def _stubs(library: Path, names: set[str], source: str = "") -> Path:
    """Write a C file of functions that do nothing, and of the functions in `source`."""
    lines = ["#include <stdlib.h>", "void fake_log(const char *format, ...);", source]
    for name in sorted(names - set(re.findall(r"\b(cu\w+)\(", source))):
        if "Create" in name:
            lines.append(f"int {name}(void **handle) {{ *handle = calloc(1, 4096); return 0; }}")
        else:
            log = "" if any(part in name for part in _QUIET) else f'fake_log("{name}"); '
            lines.append(f"int {name}() {{ {log}return 0; }}")
    path = library.with_suffix(".c")
    path.write_text("\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    build(Path(sys.argv[1]))

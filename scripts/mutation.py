"""Copy this checkout to a folder and adapt it to mutmut: python -m scripts.mutation FOLDER.

mutmut skips decorated functions, so `@decorator` becomes `name = decorator(name)`. It forks each test run
from a process in which the tests have run once, so caches are removed: their contents would hide mistakes.
Hypothesis tries few examples, always the same ones, so that a run takes seconds and is reproducible.
"""

import ast
import sys
from pathlib import Path
from typing import Final

from tests.support.checkout import ROOT, clone

FILES: Final = (
    *("contract/drawable.py", "contract/manifest.py", "contract/picture.py", "contract/preprocess.py"),
    *(
        "contract/recipe.py",
        "service/inference/admission.py",
        "service/inference/batches.py",
        "service/inference/scheduler.py",
    ),
)
TESTS: Final = (
    *("tests/contract/test_edges.py", "tests/contract/test_golden.py", "tests/contract/test_manifest.py"),
    "tests/contract/test_manifest_text.py",
    *("tests/contract/test_preprocess_errors.py", "tests/contract/test_preprocess_parity.py"),
    *("tests/service/inference/test_admission.py", "tests/service/inference/test_batches.py"),
    *("tests/service/inference/test_scheduler.py", "tests/service/inference/test_scheduler_failures.py"),
    "tests/service/inference/test_scheduler_slow.py",
)
CONFIG: Final = f"""
[tool.mutmut]
source_paths = ["contract", "service"]
only_mutate = {list(FILES)}
also_copy = ["alexnet_client", "training", "benchmarks", "scripts", "models", "docs", "README.md"]
pytest_add_cli_args_test_selection = {list(TESTS)}
use_git_change_detection = false
"""
FEW_EXAMPLES: Final = """
from hypothesis import settings

settings.register_profile("few", settings.default, max_examples=8, derandomize=True)
settings.load_profile("few")
"""
KEPT_DECORATORS: Final = {"classmethod", "staticmethod"}  # mutmut supports them
CACHE_DECORATORS: Final = ("lru_cache", "cache")


def main(target: Path) -> None:
    clone(target)
    for name in FILES:
        (target / name).write_text(undecorated((ROOT / name).read_text()))
    for name, more in (("pyproject.toml", CONFIG), ("tests/contract/conftest.py", FEW_EXAMPLES)):
        (target / name).write_text((ROOT / name).read_text() + more)


def undecorated(text: str) -> str:
    """Return the module without decorators, except of class and static methods."""
    lines = text.splitlines()
    functions = [
        n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for node in sorted(functions, key=lambda node: -node.lineno):
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        if not decorators or set(decorators) <= KEPT_DECORATORS:
            continue
        assert node.end_lineno is not None
        lines[node.end_lineno : node.end_lineno] = [
            f"{' ' * node.col_offset}{node.name} = {decorator}({node.name})"
            for decorator in reversed(decorators)
            if not decorator.startswith(CACHE_DECORATORS)
        ]
        del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

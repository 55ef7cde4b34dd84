"""What the service's image installs, exactly: docker/requirements/*.txt with hashes, and docs/licences.md.

pip resolves it for each platform (`--dry-run --report`): the index tells versions, hashes and licences
without any wheel being downloaded, so that several gigabytes of CUDA are locked in seconds. pip evaluates
the markers of requirements for the Python that runs this, so that must be the image's, on Linux.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from scripts.licences import Package, licence_of, normal, page

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docker" / "requirements"
# One of these in each image; ONNX Runtime's GPU build takes x86-64.
RUNTIMES: Final = {"cpu": ("x86_64", "aarch64"), "gpu": ("x86_64",)}
EXTRAS: Final = ("heif", "otel")  # what the build argument EXTRAS adds
NEWEST_GLIBC: Final = 36  # 2.36 is Debian 12's

Locked = dict[str, tuple[Package, set[str]]]  # by normal name: with the SHA-256 of its files


def main() -> None:
    wanted = re.search(
        r"^ARG BASE_IMAGE=python:(\d+)\.(\d+)-", (ROOT / "docker/service.Dockerfile").read_text(), re.M
    )
    assert wanted
    if sys.platform != "linux" or sys.version_info[:2] != tuple(map(int, wanted.groups())):
        sys.exit(f"error: this takes Python {'.'.join(wanted.groups())} on Linux, as in the image")
    runtimes = {name: lock([name], machines) for name, machines in RUNTIMES.items()}
    everywhere = set.intersection(*(set(locked) for locked in runtimes.values()))
    extras = {name: lock([name], RUNTIMES["cpu"]) for name in EXTRAS}
    parts = runtimes | {
        name: {key: entry for key, entry in locked.items() if key not in everywhere}
        for name, locked in extras.items()
    }
    FOLDER.mkdir(exist_ok=True)
    for name, locked in parts.items():
        (FOLDER / f"{name}.txt").write_text(requirements(name, locked))
    (ROOT / "docs/licences.md").write_text(
        page({name: [package for package, _hashes in locked.values()] for name, locked in parts.items()})
    )


def lock(extras: Iterable[str], machines: Iterable[str]) -> Locked:
    """The project's requirements and those of `extras`, resolved for each machine, together."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]
    found: Locked = {}
    for machine in machines:
        for entry in resolve(wanted, machine):
            about = entry["metadata"]
            said = (about.get("license_expression"), about.get("license"), about.get("classifier", []))
            package = Package(about["name"], about["version"], licence_of(about["name"], *said))
            _package, hashes = found.setdefault(normal(package.name), (package, set()))
            hashes.add(entry["download_info"]["archive_info"]["hashes"]["sha256"])
    return dict(sorted(found.items()))


def resolve(wanted: Iterable[str], machine: str) -> list[dict[str, Any]]:
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(NEWEST_GLIBC, 4, -1)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
        command += ["--target", folder, "--report", str(report), "-c", str(ROOT / "constraints.txt")]
        command += ["--only-binary", ":all:", *platforms, f"--platform=manylinux2014_{machine}", *wanted]
        subprocess.run(command, check=True)
        found: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    for entry in found:
        # pip evaluates them for the machine that it runs on.
        about = [r for r in entry["metadata"].get("requires_dist", []) if "platform_machine" in r]
        assert not about, f"{entry['metadata']['name']} asks for something by machine: {about}"
    return found


def requirements(name: str, locked: Locked) -> str:
    base = "" if name in RUNTIMES else "; with cpu.txt or gpu.txt"
    lines = [f"# Written by scripts/lock: what the service's image installs for `{name}`{base}."]
    for key, (package, hashes) in locked.items():
        entry = [f"{key}=={package.version}", *(f"--hash=sha256:{h}" for h in sorted(hashes))]
        lines.append(" \\\n    ".join(entry))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Test that the packages of the service image are pinned by hash, complete, and of allowed licences."""

import json
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts.audit import verdict
from scripts.licences import BUNDLED, Package, licence_of, normal, refused
from tests.support.checkout import ROOT, clone, environ

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {path.stem: path.read_text() for path in (ROOT / "docker" / "requirements").glob("*.txt")}
RUNTIMES, EXTRAS = ("cpu", "gpu"), ("heif", "otel", "gpu-decode")


def locked(part: str) -> dict[str, str]:
    """Return the locked versions by name."""
    return dict(re.findall(r"^([^\s=]+)==(\S+)", LOCKS[part], re.M))


def with_runtime(part: str) -> dict[str, str]:
    """Return the locked versions of a part; for an extra, together with the runtime it is added to."""
    return locked(part) if part in RUNTIMES else locked("cpu") | locked(part)


def listed() -> list[Package]:
    text = (ROOT / "docs/licences.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\S+) \| ([^|]+) \| [a-z, -]+ \|$", text, re.M)
    return [Package(*row) for row in rows[1:]]


def test_every_part_of_the_image_has_a_lock_file() -> None:
    assert set(LOCKS) == {*RUNTIMES, *EXTRAS}


@pytest.mark.parametrize("part", sorted(LOCKS))
def test_entries_have_exactly_a_version_and_hashes(part: str) -> None:
    comment, *rest = LOCKS[part].splitlines()
    assert comment.startswith("# Written by scripts/lock")
    entry = re.compile(r"([a-z0-9-]+==\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
    text = "\n".join(rest) + "\n"
    assert entry.sub("", text) == ""
    assert len(entry.findall(text)) == len(locked(part)) > 0


@pytest.mark.parametrize("part", sorted(LOCKS))
def test_locked_versions_match_the_constraints(part: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {normal(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    versions = locked(part)
    assert versions == {name: pinned.get(name) for name in versions}, "run scripts/lock"


@pytest.mark.parametrize("part", sorted(LOCKS))
def test_every_requirement_is_locked_in_an_allowed_version(part: str) -> None:
    versions = with_runtime(part)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][part]]:
        requirement = Requirement(text)
        assert versions.get(normal(requirement.name)) is not None, f"{text} is not locked: run scripts/lock"
        assert requirement.specifier.contains(versions[normal(requirement.name)], prereleases=True), text


@pytest.mark.parametrize("part", ["cpu", "heif"])
def test_requirements_of_packages_are_locked(part: str) -> None:
    """Check the metadata of installed packages; those of the other parts are not installed."""
    versions = with_runtime(part)
    for name, version in versions.items():
        distribution = metadata.distribution(name)
        assert distribution.version == version
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert normal(requirement.name) in versions, f"{name} needs {text}: run scripts/lock"


def test_image_installs_by_hash() -> None:
    dockerfile = (ROOT / "docker/service.Dockerfile").read_text()
    assert "COPY docker/requirements ." in dockerfile
    (install,) = re.findall(r"pip [^\n]* install [^\n]*", dockerfile)
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install, "a source distribution would run its own code"


def test_every_locked_package_is_in_the_licence_list() -> None:
    names = {(normal(package.name), package.version) for package in listed()}
    assert names == {entry for part in LOCKS for entry in locked(part).items()}, "run scripts/lock"


def test_every_licence_is_allowed() -> None:
    assert {p.name: refused(p) for p in listed() if refused(p)} == {}


def test_runtimes_have_no_copyleft_package() -> None:
    copyleft = {normal(p.name) for p in listed() if re.search(r"GPL|MPL|EPL|CDDL|EUPL", p.licence)}
    assert copyleft == {"certifi", "pillow-heif"}
    assert not copyleft & set(locked("cpu") | locked("gpu"))


def test_licence_list_matches_the_metadata_of_packages() -> None:
    for package in listed():
        if normal(package.name) in with_runtime("cpu") | with_runtime("heif"):
            about = metadata.metadata(package.name)
            expression, words = ((about.get_all(k) or [None])[0] for k in ("License-Expression", "License"))
            classifiers = about.get_all("Classifier") or []
            assert package.licence == licence_of(package.name, expression, words, classifiers), package.name


@pytest.mark.parametrize(
    ("licence", "bad"),
    [
        ("MIT", set()),
        ("Apache-2.0 OR BSD-2-Clause", set()),
        ("GPL-3.0-or-later", {"GPL-3.0-or-later"}),
        ("MIT AND (LGPL-2.1-only OR Apache-2.0)", {"LGPL-2.1-only"}),
        ("unknown", {"unknown"}),
    ],
)
def test_licence_is_refused_if_any_part_is_not_allowed(licence: str, bad: set[str]) -> None:
    assert refused(Package("somebody", "1", licence)) == bad


def test_exception_applies_only_to_its_package() -> None:
    assert refused(Package("pillow_heif", "1", "GPL-2.0-or-later")) == set()
    assert refused(Package("pillow", "1", "GPL-2.0-or-later")) == {"GPL-2.0-or-later"}
    assert refused(Package("pillow_heif", "1", "AGPL-3.0-only")) == {"AGPL-3.0-only"}


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        (("MIT AND Zlib", "anything", []), "MIT AND Zlib"),
        ((None, "3-Clause BSD License", []), "BSD-3-Clause"),
        ((None, None, ["License :: OSI Approved :: MIT License"]), "MIT"),
        ((None, "GPLv3", []), "unknown"),
        ((None, "GPLv3", ["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"]), "unknown"),
        ((None, None, []), "unknown"),
    ],
)
def test_licence_metadata_becomes_one_spdx_expression(
    fields: tuple[str | None, str | None, list[str]], licence: str
) -> None:
    assert licence_of("somebody", *fields) == licence


def test_every_library_in_the_wheels_is_listed() -> None:
    for wheel, libraries in BUNDLED.items():
        files = [file.name for file in metadata.files(wheel) or [] if file.parts[0].endswith(".libs")]
        libraries_found = {match[1] for file in files if (match := re.match(r"lib(\w+?)-[0-9a-f]", file))}
        assert libraries_found <= set(libraries), f"{wheel} contains a library that is not in BUNDLED"
    with_libraries = {
        name
        for name in with_runtime("cpu") | with_runtime("heif")
        if any(file.parts[0].endswith(".libs") for file in metadata.files(name) or [])
    }
    assert with_libraries <= set(BUNDLED)


REPORT = {"name": "a", "version": "1", "vulns": []}
VULNERABLE = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "line"),
    [
        ([REPORT], 0, "1 looked up, none has a known vulnerability"),
        ([REPORT, VULNERABLE], 1, "b 2 has CVE-1; fixed in 3"),
        ([REPORT, SKIPPED], 2, "1 of 2 could not be looked up: c"),
        ([VULNERABLE, SKIPPED], 2, "1 of 2 could not be looked up: c"),
        ([], 2, "the report is empty"),
    ],
)
def test_audit_passes_only_if_every_package_was_looked_up(
    packages: list[object], code: int, line: str
) -> None:
    exit_code, lines = verdict(json.dumps({"dependencies": packages}), "")
    assert (exit_code, lines[-1]) == (code, line)


def test_audit_without_a_connection_is_reported() -> None:
    code, (line,) = verdict("", "Traceback\nConnectionError: no such host\n")
    assert code == 2
    assert line == (
        "nothing was looked up, the advisories cannot be reached: ConnectionError: no such host"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bill_of_materials_lists_the_locked_packages(tmp_path: Path) -> None:
    checkout = clone(tmp_path / "clone")
    subprocess.run([checkout / "scripts/sbom"], cwd=tmp_path, env=environ(EXTRAS="heif otel"), check=True)
    bill = json.loads((checkout / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    versions = {normal(c["name"]): c["version"] for c in bill["components"]}
    assert versions == locked("cpu") | locked("heif") | locked("otel")
    assert bill["metadata"]["component"]["name"] == PROJECT["name"]
    # It must not contain paths of the machine that wrote it.
    assert str(tmp_path) not in json.dumps(bill)

"""What the service's image installs: pinned by hash, nothing missing, no licence that nobody chose."""

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
RUNTIMES, EXTRAS = ("cpu", "gpu"), ("heif", "otel")


def locked(part: str) -> dict[str, str]:
    """name -> version"""
    return dict(re.findall(r"^([^\s=]+)==(\S+)", LOCKS[part], re.M))


def whole(part: str) -> dict[str, str]:
    """With the runtime that an extra comes on top of."""
    return locked(part) if part in RUNTIMES else locked("cpu") | locked(part)


def listed() -> list[Package]:
    text = (ROOT / "docs/licences.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\S+) \| ([^|]+) \| [a-z, ]+ \|$", text, re.M)
    return [Package(*row) for row in rows[1:]]


def test_there_is_a_file_for_every_choice_of_the_image() -> None:
    assert set(LOCKS) == {*RUNTIMES, *EXTRAS}


@pytest.mark.parametrize("part", sorted(LOCKS))
def test_every_entry_has_one_version_and_hashes_and_nothing_else(part: str) -> None:
    comment, *rest = LOCKS[part].splitlines()
    assert comment.startswith("# Written by scripts/lock")
    entry = re.compile(r"([a-z0-9-]+==\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
    text = "\n".join(rest) + "\n"
    assert entry.sub("", text) == ""
    assert len(entry.findall(text)) == len(locked(part)) > 0


@pytest.mark.parametrize("part", sorted(LOCKS))
def test_the_versions_are_those_of_the_constraints(part: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {normal(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    found = locked(part)
    assert found == {name: pinned.get(name) for name in found}, "run scripts/lock"


@pytest.mark.parametrize("part", sorted(LOCKS))
def test_every_requirement_is_locked_in_a_version_that_it_allows(part: str) -> None:
    found = whole(part)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][part]]:
        wanted = Requirement(text)
        assert found.get(normal(wanted.name)) is not None, f"{text} is not locked: run scripts/lock"
        assert wanted.specifier.contains(found[normal(wanted.name)], prereleases=True), text


@pytest.mark.parametrize("part", ["cpu", "heif"])
def test_what_the_packages_need_is_locked_too(part: str) -> None:
    """By the packages that are installed here; those of the other parts are not."""
    found = whole(part)
    for name, version in found.items():
        here = metadata.distribution(name)
        assert here.version == version
        for text in here.requires or []:
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                assert normal(wanted.name) in found, f"{name} needs {text}: run scripts/lock"


def test_the_image_installs_these_files_by_hash() -> None:
    dockerfile = (ROOT / "docker/service.Dockerfile").read_text()
    assert "COPY docker/requirements ." in dockerfile
    (install,) = re.findall(r"pip [^\n]* install [^\n]*", dockerfile)
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install, "a source distribution would run its own code"


def test_every_locked_package_has_its_licence_listed() -> None:
    names = {(normal(package.name), package.version) for package in listed()}
    assert names == {entry for part in LOCKS for entry in locked(part).items()}, "run scripts/lock"


def test_no_licence_that_nobody_chose() -> None:
    assert {p.name: refused(p) for p in listed() if refused(p)} == {}


def test_the_runtimes_themselves_have_no_copyleft_package() -> None:
    copyleft = {normal(p.name) for p in listed() if re.search(r"GPL|MPL|EPL|CDDL|EUPL", p.licence)}
    assert copyleft == {"certifi", "pillow-heif"}
    assert not copyleft & set(locked("cpu") | locked("gpu"))


def test_the_list_says_what_the_installed_packages_say() -> None:
    for package in listed():
        if normal(package.name) in whole("cpu") | whole("heif"):
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
def test_a_licence_is_judged_by_all_its_parts(licence: str, bad: set[str]) -> None:
    assert refused(Package("somebody", "1", licence)) == bad


def test_an_exception_is_for_its_package_alone() -> None:
    assert refused(Package("pillow_heif", "1", "GPL-2.0-or-later")) == set()
    assert refused(Package("pillow", "1", "GPL-2.0-or-later")) == {"GPL-2.0-or-later"}
    assert refused(Package("pillow_heif", "1", "AGPL-3.0-only")) == {"AGPL-3.0-only"}


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        (("MIT AND Zlib", "anything", []), "MIT AND Zlib"),
        ((None, "3-Clause BSD License", []), "BSD-3-Clause"),
        ((None, None, ["License :: OSI Approved :: MIT License"]), "MIT"),
        ((None, "GPLv3", []), "unknown"),
        ((None, "GPLv3", ["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"]), "unknown"),
        ((None, None, []), "unknown"),
    ],
)
def test_what_a_package_says_becomes_one_expression(
    said: tuple[str | None, str | None, list[str]], licence: str
) -> None:
    assert licence_of("somebody", *said) == licence


def test_every_library_inside_the_wheels_is_listed() -> None:
    for wheel, libraries in BUNDLED.items():
        files = [file.name for file in metadata.files(wheel) or [] if file.parts[0].endswith(".libs")]
        found = {match[1] for file in files if (match := re.match(r"lib(\w+?)-[0-9a-f]", file))}
        assert found <= set(libraries), f"{wheel} carries a library that is not in BUNDLED"
    silent = {
        name
        for name in whole("cpu") | whole("heif")
        if any(file.parts[0].endswith(".libs") for file in metadata.files(name) or [])
    }
    assert silent <= set(BUNDLED)


REPORT = {"name": "a", "version": "1", "vulns": []}
FOUND = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "line"),
    [
        ([REPORT], 0, "1 looked up, none has a known vulnerability"),
        ([REPORT, FOUND], 1, "b 2 has CVE-1; mended in 3"),
        ([REPORT, SKIPPED], 2, "1 of 2 could not be looked up: c"),
        ([FOUND, SKIPPED], 2, "1 of 2 could not be looked up: c"),
        ([], 2, "the report is empty"),
    ],
)
def test_an_audit_is_sound_only_if_every_package_was_looked_up(
    packages: list[object], code: int, line: str
) -> None:
    found, lines = verdict(json.dumps({"dependencies": packages}), "")
    assert (found, lines[-1]) == (code, line)


def test_an_audit_that_reaches_nobody_says_so() -> None:
    code, (line,) = verdict("", "Traceback\nConnectionError: no such host\n")
    assert code == 2
    assert line == (
        "nothing was looked up, the advisories cannot be reached: ConnectionError: no such host"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_bill_of_materials_has_what_is_locked(tmp_path: Path) -> None:
    checkout = clone(tmp_path / "clone")
    subprocess.run([checkout / "scripts/sbom"], cwd=tmp_path, env=environ(EXTRAS="heif otel"), check=True)
    bill = json.loads((checkout / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {normal(c["name"]): c["version"] for c in bill["components"]}
    assert found == locked("cpu") | locked("heif") | locked("otel")
    assert bill["metadata"]["component"]["name"] == PROJECT["name"]
    # Nothing of the machine that wrote it.
    assert str(tmp_path) not in json.dumps(bill)

"""SECURITY.md names files and settings that exist, and tests for each row of the threat model."""

import re

from service.settings import Settings
from tests.support.checkout import ROOT

TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = [line.split("|") for line in TEXT.splitlines() if line.startswith("| ") and "`" in line]


def test_every_row_of_the_threat_model_names_tests() -> None:
    assert len(ROWS) > 10
    for row in ROWS:
        named = re.findall(r"`([^`]+)`", row[4])
        assert named, row
        assert all(name.startswith("tests/") for name in named), named


def test_every_path_is_full_and_exists() -> None:
    named = set(re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|js|yml|cfg))`", TEXT))
    assert len(named) > 40
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_setting_exists() -> None:
    known = {name.upper() for name in Settings.model_fields} | {"TLS_FILE", "EXTRAS"}
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+|EXTRAS)\b", TEXT))
    assert named
    assert named <= known

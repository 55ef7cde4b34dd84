"""SECURITY.md names files as proof: they are there, and so are the settings."""

import re

from service.settings import Settings
from tests.support.checkout import ROOT

TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = [line.split("|") for line in TEXT.splitlines() if line.startswith("| ") and "`" in line]


def test_every_row_of_the_threat_model_has_a_test_as_its_proof() -> None:
    assert len(ROWS) > 10
    for row in ROWS:
        folder = "tests"
        for name in re.findall(r"`([^`]+)`", row[4]):
            # A name alone lies beside the one before it.
            path = name if name.startswith("tests/") else f"{folder}/{name}"
            folder = path.rsplit("/", 1)[0]
            assert (ROOT / path).is_file(), path
        assert "`tests/" in row[4], row


def test_every_file_that_stops_somebody_is_there() -> None:
    named = re.findall(r"`((?:contract|service|docker|scripts)/[a-z_/.]*|[a-z-]+\.yml)`", TEXT)
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_setting_is_one() -> None:
    known = {name.upper() for name in Settings.model_fields} | {"TLS_FILE", "EXTRAS"}
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+|EXTRAS)\b", TEXT))
    assert named, TEXT
    assert named <= known

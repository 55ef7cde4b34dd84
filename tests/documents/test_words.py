"""The documents use the field's terms: docs/glossary.md lists them, and these words were replaced."""

import re
from pathlib import Path

import pytest

from tests.support.checkout import ROOT, tracked

COVERED = (
    *("**/*.md", "**/*.py", "**/*.toml", "**/*.yml", "**/*.js", "**/*.css", "**/*.html"),
    *("scripts/*", ".ci/*", "docker/*", ".env.example"),
)
REPLACED = {
    r"in the house|what is inside|images inside|those inside|is inside\b": "in flight",
    r"let in|leaves? a trace": "authorize, record",
    r"strangers?": "untrusted clients",
    r"who(m)?ever|what is alone|that is alone|is alone": "the subject; single in-flight request",
    r"nobody is told|nobody notices": "the subject",
    r"gives? way|keeps? to (a|its) core": "lower priority, pinned",
    r"hung up|hangs up|hang up": "disconnect",
    r"mended": "fixed",
    r"(each|every|speed) bars?\b|bars (are|of|that)": "acceptance criteria",
    r"kept its word|keeps? its word|what it promised|promises more": "passed, expected",
    r"(is|are|was|were|be) looked at|one look": "inspected, inferred",
    r"right, by ten crops|how often it is right": "top-1 accuracy, ten-crop",
    r"it is said to|what is said": "reported",
    r"alexnet_inside_\w+|MOST_\w+|LEAST_\w+|LONGEST_\w+|PATIENCE": "alexnet_in_flight_images, MAX_, MIN_",
    r"lab notebook": "a decision with its figures",
}
GENERATED = re.compile(r"\[\[\[cog.*?\[\[\[end\]\]\]", re.S)  # checked in the code that they come from


FILES = [file for file in tracked(*COVERED) if file != Path(__file__)]


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_replaced_word(file: Path) -> None:
    text = GENERATED.sub("", file.read_text())
    for pattern, instead in REPLACED.items():
        found = re.search(rf"\b(?:{pattern})\b", text, re.I)
        assert found is None, f"{found[0]!r}: write {instead}"


def test_the_glossary_is_sorted_and_has_25_terms() -> None:
    terms = re.findall(r"^\| (.+?) \| [A-Z]", (ROOT / "docs/glossary.md").read_text(), re.M)
    assert len(terms) == 25
    assert terms == sorted(terms)

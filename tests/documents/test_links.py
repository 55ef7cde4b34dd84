"""Relative links in the documents lead to files, and to headings that exist."""

import re
from pathlib import Path

import pytest

from tests.support.checkout import ROOT, documents

LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.M)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.M | re.S)


def anchors(document: Path) -> set[str]:
    """Return the ids that GitHub gives to the headings of a document."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S), re.M
    )
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_exist(document: Path) -> None:
    for inline, reference in LINK.findall(without_code(document.read_text())):
        link = inline or reference
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{link} does not exist"
        if fragment:
            assert fragment in anchors(target), f"{link} has no such heading"

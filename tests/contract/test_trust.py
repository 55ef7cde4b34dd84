"""Test that the manifest's section trust is read as it was written, and that invalid ones are refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contract
from contract.fields import MAX_INTEGER, ManifestError
from contract.manifest import CONTROL, MAX_TEXT_CHARACTERS, Manifest
from contract.trust import (
    COVERAGES,
    METHODS,
    CoverageResult,
    Familiarity,
    Share,
    Trust,
    UnfamiliarResult,
)
from tests.support.manifests import MANIFEST, TRUST, TRUSTED, changed

SCHEMA = jsonschema_rs.validator_for(
    json.loads((Path(contract.__file__).parent / "manifest.schema.json").read_text())
)
FAMILIARITY = "trust.familiarity"
UNFAMILIAR = f"{FAMILIARITY}.unfamiliar.0"

shares = st.floats(0, 1)
measured = st.builds(lambda value, ends: Share(value, *sorted(ends)), shares, st.tuples(shares, shares))
counts = st.integers(1, MAX_INTEGER)
sizes = st.floats(0, allow_infinity=False)
names = st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda text: not CONTROL.search(text))
familiarities = st.builds(
    Familiarity,
    shares,
    measured,
    counts,
    st.integers(0, MAX_INTEGER),
    st.lists(st.builds(UnfamiliarResult, names, counts, shares, shares, shares), max_size=3).map(tuple),
)
trusts = st.builds(
    Trust,
    photographs=counts,
    method=st.sampled_from(METHODS),
    temperature=st.floats(0, exclude_min=True, allow_infinity=False),
    ece_before=measured,
    ece=measured,
    quantiles=st.lists(shares, max_size=len(COVERAGES)).map(
        lambda values: dict(zip(COVERAGES, sorted(values), strict=False))
    ),
    sets=st.lists(
        st.builds(CoverageResult, st.floats(0, 1, exclude_min=True, exclude_max=True), measured, sizes),
        max_size=3,
    ).map(tuple),
    familiarity=st.none() | familiarities,
)


def with_trust(trust: Trust | None) -> Manifest:
    has_output = trust is not None and trust.familiarity is not None
    return replace(TRUSTED, trust=trust, outputs=(TRUSTED if has_output else MANIFEST).outputs)


@given(trusts)
def test_trust_round_trips_through_json(trust: Trust) -> None:
    assert Trust.read(json.loads(json.dumps(trust.record()))) == trust
    text = with_trust(trust).to_json()
    assert Manifest.from_json(text).trust == trust
    SCHEMA.validate(json.loads(text))


def without(path: str) -> str:
    *parents, last = path.split(".")
    record = json.loads(TRUSTED.to_json())
    place = record
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    del place[last]
    return json.dumps(record)


def test_files_without_trust_are_read() -> None:
    record = json.loads(MANIFEST.to_json())
    assert record.pop("trust") is None
    for old in (json.dumps(record), MANIFEST.to_json()):
        assert Manifest.from_json(old) == MANIFEST
        SCHEMA.validate(json.loads(old))


def test_trust_without_familiarity_is_read() -> None:
    manifest = with_trust(replace(TRUST, familiarity=None))
    record = json.loads(manifest.to_json())
    del record["trust"]["familiarity"]
    assert Manifest.from_json(json.dumps(record)) == manifest
    SCHEMA.validate(record)


@pytest.mark.parametrize(
    "path",
    [
        *(f"trust.{key}" for key in ("photographs", "method", "temperature", "ece_before", "ece")),
        *("trust.quantiles", "trust.sets", "trust.ece.value", "trust.ece_before.low", "trust.ece.high"),
        *(f"trust.sets.0.{key}" for key in ("coverage", "achieved", "mean_size", "achieved.low")),
        *(f"{FAMILIARITY}.{key}" for key in ("unknown_above", "known", "references", "background")),
        f"{FAMILIARITY}.unfamiliar",
        *(f"{UNFAMILIAR}.{key}" for key in ("data", "images", "auroc", "fpr95", "known_and_probable")),
    ],
)
def test_missing_field_is_named(path: str) -> None:
    text = without(path)
    with pytest.raises(ManifestError, match=rf"\b{path.split('.')[-1]} must be of type"):
        Manifest.from_json(text)
    assert not SCHEMA.is_valid(json.loads(text))


SHARES = (
    *(
        "trust.ece.value",
        "trust.ece_before.low",
        "trust.sets.0.achieved.high",
        f"{FAMILIARITY}.known.value",
    ),
    *(f"{FAMILIARITY}.unknown_above", f"{UNFAMILIAR}.auroc", f"{UNFAMILIAR}.fpr95"),
    *(f"{UNFAMILIAR}.known_and_probable", "trust.quantiles.0.50", "trust.quantiles.0.95"),
)
COUNTS = ("trust.photographs", f"{FAMILIARITY}.references", f"{UNFAMILIAR}.images")
OBJECTS = (
    "trust",
    "trust.ece",
    "trust.quantiles",
    "trust.sets.0.achieved",
    FAMILIARITY,
    f"{FAMILIARITY}.known",
)
LISTS = ("trust.sets", f"{FAMILIARITY}.unfamiliar")
WRONG_LISTS: tuple[Any, ...] = ({}, None, [1], [[]], "text")
WRONG_SHARES: tuple[Any, ...] = (-0.1, 1.1, "1", None, True, [0.5], {})
WRONG_OBJECTS: tuple[Any, ...] = ([], "text", 1, True)
INVALID: list[tuple[str, Any]] = [
    *((path, value) for path in SHARES for value in WRONG_SHARES),
    *((path, value) for path in COUNTS for value in (0, -1, 1.5, "1", None, True)),
    *((f"{FAMILIARITY}.background", value) for value in (-1, 0.5, None)),
    *((path, value) for path in OBJECTS for value in WRONG_OBJECTS),
    *((path, value) for path in LISTS for value in WRONG_LISTS),
    *(("trust.method", value) for value in ("", "Halves", "thirds", 1, None)),
    *(("trust.temperature", value) for value in (0, -1, "1", None)),
    *(("trust.sets.0.coverage", value) for value in (0, 1, -0.5, 90, "0.90", None)),
    *(("trust.sets.0.mean_size", value) for value in (-1, "1", None)),
    *((f"{UNFAMILIAR}.data", value) for value in (1, None, ["cats"])),
    ("trust.quantiles", {"0.5": 0.1}),
    ("trust.quantiles", {"0.50": 0.1, "1.00": 0.2}),
    ("trust.quantiles", dict.fromkeys([*COVERAGES, "1.00"], 0.5)),
    ("trust.quantiles", {f"0.{n}": 0.5 for n in range(50, 5000)}),
    ("trust.quantiles", {"x" * 10_000: None}),
]
# What the schema cannot say
CONTRADICTIONS: list[tuple[str, Any]] = [
    ("trust.quantiles", {"0.51": 0.1}),
    ("trust.quantiles", {"0.50": 0.1, "0.52": 0.2}),
    ("trust.quantiles", {"0.51": 0.1, "0.50": 0.2}),
    ("trust.quantiles", {"0.50": 0.2, "0.51": 0.1}),
    ("trust.ece", {"value": 0.1, "low": 0.2, "high": 0.1}),
    (FAMILIARITY, None),  # the output needs it
    ("trust", None),
]


def field_of(path: str) -> str:
    """Return the name that the message has: the last one of an object that is not a list's item."""
    *parents, last = path.replace(".0.50", "").replace(".0.95", "").split(".")
    if last in {"value", "low", "high"}:
        return parents[-1]
    return last


@pytest.mark.parametrize(("path", "value"), [*INVALID, *CONTRADICTIONS], ids=lambda value: str(value)[:30])
def test_invalid_value_is_refused_with_its_field(path: str, value: Any) -> None:
    text = replaced(path, value)
    with pytest.raises(ManifestError, match=rf"\b{field_of(path)}\b") as raised:
        Manifest.from_json(text)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(("path", "value"), INVALID, ids=lambda value: str(value)[:30])
def test_schema_refuses_what_is_invalid(path: str, value: Any) -> None:
    assert not SCHEMA.is_valid(json.loads(replaced(path, value)))


def replaced(path: str, value: Any) -> str:
    """Return the JSON of TRUSTED with another value at `path`, which may end in a key of quantiles."""
    if key := re.search(r"\.(0\.\d\d)$", path):
        return changed("trust.quantiles", TRUST.quantiles | {key[1]: value}, TRUSTED)
    return changed(path, value, TRUSTED)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9007199254740992"])
@pytest.mark.parametrize(
    "path", ["trust.temperature", "trust.sets.0.mean_size", f"{FAMILIARITY}.references", "trust.ece.low"]
)
def test_numbers_beyond_double_precision_are_refused(path: str, number: str) -> None:
    with pytest.raises(ManifestError, match=rf"{path.split('.')[-1]} has (the|an) (number|integer)"):
        Manifest.from_json(changed(path, "#", TRUSTED).replace('"#"', number))


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "\u202ea", "x" * (MAX_TEXT_CHARACTERS + 1)])
def test_names_that_cannot_be_shown_are_refused(text: str) -> None:
    with pytest.raises(ManifestError, match=r"trust has (control|a text)"):
        Manifest.from_json(changed(f"{UNFAMILIAR}.data", text, TRUSTED))

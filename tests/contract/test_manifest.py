"""Test that a manifest is read as it was written, and that invalid ones are refused by field."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.fields import MAX_INTEGER, ManifestError
from contract.manifest import CONTROL, MANIFEST_VERSION, Manifest, Metrics, Tensor
from contract.recipe import DEFAULT_RECIPE, RECIPES
from tests.support.manifests import MANIFEST, changed

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
text = st.text(st.characters(codec="utf-8"), max_size=20)
plain = text.filter(lambda value: not CONTROL.search(value))  # text that a service shows
integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
positive = st.integers(1, MAX_INTEGER)
levels = st.floats(0, 255)
shares = st.floats(0, 1)
metrics = st.builds(
    lambda data, images, crops, share: Metrics(data, images, crops, min(share), max(share)),
    plain,
    positive,
    positive,
    st.tuples(shares, shares),
)
records = st.dictionaries(
    text,
    st.one_of(text, integers, st.floats(allow_nan=False, allow_infinity=False), st.none()),
    max_size=4,
)
tensors = st.builds(
    Tensor, plain, plain, st.lists(st.none() | st.integers(1, 9999), max_size=4).map(tuple), plain
)
manifests = st.builds(
    Manifest,
    name=names,
    version=positive,
    architecture=records,
    classes=st.lists(plain, min_size=2, max_size=20, unique=True).map(tuple),
    recipe=st.sampled_from(list(RECIPES.values())),
    mean=st.tuples(levels, levels, levels),
    std=st.tuples(*[st.floats(0, 1e6, exclude_min=True)] * 3),
    opset=integers,
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    inputs=st.lists(tensors, min_size=1, max_size=3).map(tuple),
    outputs=st.lists(tensors, min_size=1, max_size=3).map(tuple),
    metrics=st.lists(metrics, max_size=3).map(tuple),
    training=records,
    parity=records,
)


def without(path: str) -> str:
    record = json.loads(MANIFEST.to_json())
    *parents, last = path.split(".")
    place = record
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    del place[last]
    return json.dumps(record)


@given(manifests)
def test_manifest_round_trips_through_json(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_json_spells_out_the_preprocessing() -> None:
    record = json.loads(MANIFEST.to_json())
    assert "Löwenzahn" in MANIFEST.to_json()
    assert record["manifest_version"] == MANIFEST_VERSION
    assert record["preprocessing"] == {
        **asdict(DEFAULT_RECIPE),
        "filter": "bilinear",
        "mean": [123.5, 116.25, 103.0],
        "std": [58.0, 58.0, 58.0],
    }


@pytest.mark.parametrize(
    "path",
    [
        *(
            "manifest_version",
            "name",
            "version",
            "architecture",
            "classes",
            "preprocessing",
            "opset",
            "precision",
        ),
        *("inputs", "outputs", "metrics", "training", "parity"),
        *(f"preprocessing.{key}" for key in ("id", "resize", "crop", "scaled_jpeg", "mean", "std")),
        *("inputs.0.name", "inputs.0.dtype", "inputs.0.shape", "outputs.0.meaning"),
        *(f"metrics.0.{key}" for key in ("data", "images", "crops", "top1", "top5")),
    ],
)
def test_missing_field_is_named(path: str) -> None:
    with pytest.raises(ManifestError, match=path.split(".")[-1]):
        Manifest.from_json(without(path))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("name", v) for v in (7, "", "Flowers", "../flowers", "-a", "a" * 65, None)),
        *(("version", v) for v in (0, -1, "3", 1.5, True)),
        *(("classes", v) for v in ([], ["one"], ["a", "a"], "ab", [1, 2], None)),
        *(("mean", v) for v in ([1, 2], [1, 2, 3, 4], [0, 0, 256], [-1, 0, 0], ["1", 2, 3], 5)),
        *(("std", v) for v in ([0, 1, 1], [1, -1, 1], [1, 1], [True, 1, 1])),
        ("inputs", []),
        ("inputs", {}),
        ("inputs", ["images"]),
        ("outputs", []),
        ("outputs", None),
        ("inputs.0.shape", "N"),
        ("inputs.0.shape", [None, "224", 224, 3]),
        ("inputs.0.shape", [None, [224], 224, 3]),
        ("inputs.0.shape", [None, 224.5, 224, 3]),
        ("metrics.0.top1", "87%"),
        ("metrics.0.top1", 1.5),
        ("metrics.0.top1", -0.1),
        ("metrics.0.top5", float("nan")),
        ("metrics.0.images", 1.5),
        ("metrics.0.images", 0),
        ("metrics.0.crops", 0),
        ("manifest_version", 1),
        ("manifest_version", "2"),
        ("architecture", "alexnet"),
        ("opset", "17"),
        ("precision", 16),
        ("preprocessing", "bilinear"),
    ],
)
def test_invalid_value_is_refused_with_its_field(path: str, value: Any) -> None:
    place = f"preprocessing.{path}" if path in {"mean", "std"} else path
    with pytest.raises(ManifestError, match=path.split(".")[-1]):
        Manifest.from_json(changed(place, value))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("key", ["mean", "std"])
def test_nan_and_infinity_are_refused(key: str, value: str) -> None:
    record = changed(f"preprocessing.{key}", [1, 2, "x"]).replace('"x"', value)
    with pytest.raises(ManifestError, match=key):
        Manifest.from_json(record)


@pytest.mark.parametrize("size", [0, -5])
def test_sizes_below_1_are_refused(size: int) -> None:
    with pytest.raises(ManifestError, match="outputs has a shape"):
        Manifest.from_json(changed("outputs.0.shape", [None, size]))


def test_unknown_preprocessing_id_lists_the_known_ones() -> None:
    with pytest.raises(ManifestError, match=rf"'lanczos-1'.*{DEFAULT_RECIPE.id}"):
        Manifest.from_json(changed("preprocessing.id", "lanczos-1"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("resize", 255), ("crop", 227), ("scaled_jpeg", False), ("filter", "lanczos"), ("resize", "256")],
)
def test_values_that_contradict_the_preprocessing_id_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ManifestError, match=rf"preprocessing\.{key} is {value!r}"):
        Manifest.from_json(changed(f"preprocessing.{key}", value))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Not this"}, "name"),
        ({"version": 0}, "version"),
        ({"classes": ("a",)}, "classes"),
        ({"mean": (0.0, 0.0, 300.0)}, "mean"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"inputs": ()}, "inputs"),
        ({"training": {"loss": float("nan")}}, "loss"),
        ({"parity": {"largest": float("inf")}}, "largest"),
        ({"classes": ("a\udcff", "b")}, "classes"),
    ],
)
def test_manifest_with_an_invalid_value_cannot_be_created(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ManifestError, match=field):
        replace(MANIFEST, **change)

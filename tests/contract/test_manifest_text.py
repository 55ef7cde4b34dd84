"""Test that a manifest is refused if its text cannot be encoded, parsed or shown safely."""

from typing import Any

import pytest

from contract.fields import ManifestError
from contract.manifest import MAX_CHARACTERS, Manifest
from tests.support.manifests import changed

UNENCODABLE = (
    "architecture",
    "training",
    "parity",
    "classes.0",
    "metrics.0.data",
    "outputs.0.meaning",
    "name",
)


SHOWN = (
    "classes.0",
    "metrics.0.data",
    "inputs.0.name",
    "outputs.0.dtype",
    "outputs.0.meaning",
    "precision",
)


@pytest.mark.parametrize("path", UNENCODABLE)
def test_surrogates_are_refused_in_any_field(path: str) -> None:
    value: Any = "a\ud800b" if "." in path or path == "name" else {"a": [{"b": "\udfff"}]}
    with pytest.raises(ManifestError, match="not Unicode") as raised:
        Manifest.from_json(changed(path, value))
    str(raised.value).encode()  # the message itself is shown by /health


@pytest.mark.parametrize("path", ["architecture", "preprocessing"])
def test_surrogate_in_a_field_name_is_refused(path: str) -> None:
    with pytest.raises(ManifestError, match="not Unicode") as raised:
        Manifest.from_json(changed(f"{path}.\udc80", 1))
    str(raised.value).encode()


@pytest.mark.parametrize("path", SHOWN)
@pytest.mark.parametrize("sign", ["\0", "\n", "\x1b[31m", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066"])
def test_control_characters_are_refused_in_displayed_text(path: str, sign: str) -> None:
    with pytest.raises(ManifestError, match="control characters") as raised:
        Manifest.from_json(changed(path, f"a{sign}b"))
    assert sign not in str(raised.value)


@pytest.mark.parametrize("path", SHOWN)
def test_long_displayed_text_is_refused(path: str) -> None:
    Manifest.from_json(changed(path, "x" * 1000))
    with pytest.raises(ManifestError, match=r"1,001 characters; 1,000 are allowed"):
        Manifest.from_json(changed(path, "x" * 1001))


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "9007199254740992", "9" * 4000]
)
@pytest.mark.parametrize("key", ["architecture", "training", "parity", "version", "opset"])
def test_numbers_beyond_double_precision_are_refused(key: str, number: str) -> None:
    value: Any = "#" if key in {"version", "opset"} else {"deep": [{"number": "#"}]}
    with pytest.raises(ManifestError, match=r"number|integer"):
        Manifest.from_json(changed(key, value).replace('"#"', number))


def test_integer_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(ManifestError, match="not JSON"):
        Manifest.from_json(changed("version", "#").replace('"#"', "9" * 5000))


@pytest.mark.parametrize("depth", [22, 500, 100_000])
@pytest.mark.parametrize(("opened", "closed"), [('{"a":', "}"), ("[", "]")])
def test_deep_nesting_is_refused(depth: int, opened: str, closed: str) -> None:
    text = opened * depth + "1" + closed * depth
    for manifest in (text, changed("training", "#").replace('"#"', text)):
        with pytest.raises(ManifestError, match="nested more than 20 deep"):
            Manifest.from_json(manifest)


def test_manifest_over_two_million_characters_is_refused() -> None:
    Manifest.from_json(changed("training", {"log": "x" * (MAX_CHARACTERS - 2000)}))
    with pytest.raises(ManifestError, match=r"2,000,000 are allowed"):
        Manifest.from_json(changed("training", {"log": "x" * MAX_CHARACTERS}))


def test_message_does_not_repeat_a_long_value() -> None:
    for path in ("preprocessing.id", "preprocessing.filter", "opset", "name"):
        with pytest.raises(ManifestError) as raised:
            Manifest.from_json(changed(path, "x" * 100_000))
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3", '"manifest"', "{}"])
def test_json_that_is_not_a_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match="manifest"):
        Manifest.from_json(text)

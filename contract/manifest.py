"""Define the manifest: the description of a model, stored as JSON in the metadata of its ONNX file.

Weights, preprocessing, class names, metrics and provenance are in one file, so that they cannot be mixed
up. `Manifest.from_json` rejects a manifest that a service could not serve correctly.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Final, Self

from contract.fields import MAX_INTEGER, ManifestError, get, list_of
from contract.recipe import RECIPES, Recipe
from contract.trust import UNFAMILIARITY, Trust

METADATA_KEY: Final = "alexnet"
MANIFEST_VERSION: Final = 2
FILTER: Final = "bilinear"  # the same in every recipe so far
MAX_CHARACTERS: Final = 2_000_000  # of the JSON text; 20,000 classes take one million
MAX_TEXT_CHARACTERS: Final = 1_000  # of a label or another text that a service shows
MAX_NESTING: Final = 20  # levels of objects and lists
# Control characters, line and paragraph separators, and direction overrides: they forge log lines and
# change what a reader sees. Surrogates are not characters and cannot be encoded.
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Tensor:
    """An input or output of the graph. `shape` has None for the batch; `meaning` describes it to people."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    meaning: str


@dataclass(frozen=True)
class Metrics:
    """Top-1 and top-5 accuracy as fractions of 1, over `images` photographs of the data set `data`."""

    data: str
    images: int
    crops: int
    top1: float
    top5: float

    def __post_init__(self) -> None:
        if self.images < 1 or self.crops < 1:
            raise ManifestError(
                f"metrics of {self.images} images and {self.crops} crops: none were measured"
            )
        if not 0 <= self.top1 <= self.top5 <= 1:
            raise ManifestError(
                f"metrics: top1 {self.top1} and top5 {self.top5} must be 0 to 1, in this order"
            )


@dataclass(frozen=True)
class Manifest:
    """The description of a model: its classes, preprocessing, graph, accuracies and provenance.

    `mean` and `std` are per channel R, G, B on the scale 0 to 255: the graph itself computes
    (pixel - mean) / std. `version` increases when a model is replaced under its name. `training` describes
    the run: configuration, epochs, date, revision, checkpoint. `parity` holds the differences between the
    file and the checkpoint, measured at export. Older files have no `trust`. Raises ManifestError for an
    invalid value.
    """

    name: str
    version: int
    architecture: dict[str, Any]
    classes: tuple[str, ...]
    recipe: Recipe
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    opset: int
    precision: str  # fp32, fp16 or int8
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metrics: tuple[Metrics, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    trust: Trust | None = None

    def __post_init__(self) -> None:
        _check("the manifest", vars(self))
        for key, text in self._displayed_texts():
            _check_displayed(key, text)
        if not _NAME.fullmatch(self.name):
            raise ManifestError(
                f"name is {self.name!r}; use up to 64 of a-z, 0-9, '.', '_', '-', first a letter or digit"
            )
        if self.version < 1:
            raise ManifestError(f"version is {self.version}; it counts from 1")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ManifestError(
                f"classes must be two or more different names, not {list(self.classes)[:5]}"
            )
        if not all(0 <= m <= 255 for m in self.mean) or not all(0 < s < math.inf for s in self.std):
            raise ManifestError(f"mean must be 0 to 255 and std above 0: {self.mean}, {self.std}")
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not tensors:
                raise ManifestError(f"{side} is empty")
            if any(n is not None and n < 1 for tensor in tensors for n in tensor.shape):
                raise ManifestError(f"{side} has a shape with a size below 1")
        declared = [(t.dtype, t.shape) for t in self.outputs if t.name == UNFAMILIARITY]
        if self.trust is None or self.trust.familiarity is None:
            if declared:
                raise ManifestError(f"outputs has {UNFAMILIARITY}, which needs trust.familiarity")
        elif declared != [("float32", (None,))]:
            raise ManifestError(
                f"trust.familiarity needs one output {UNFAMILIARITY}, float32 of the shape [null]"
            )

    def _displayed_texts(self) -> Iterator[tuple[str, str]]:
        """Yield the name and text of every field that a service shows."""
        yield "name", self.name
        yield "precision", self.precision
        for label in self.classes:
            yield "classes", label
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            for tensor in tensors:
                yield from ((side, text) for text in (tensor.name, tensor.dtype, tensor.meaning))
        for metrics in self.metrics:
            yield "metrics", metrics.data
        if self.trust is not None and self.trust.familiarity is not None:
            yield from (("trust", result.data) for result in self.trust.familiarity.unfamiliar)

    def to_json(self) -> str:
        """Write the manifest as JSON, the recipe with its values spelled out."""
        record = asdict(self)
        recipe = record.pop("recipe")
        mean, std = record.pop("mean"), record.pop("std")
        return json.dumps(
            {
                "manifest_version": MANIFEST_VERSION,
                **record,
                "preprocessing": {**recipe, "filter": FILTER, "mean": mean, "std": std},
            },
            indent=1,
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` of this version writes. Raises ManifestError for anything else."""
        if len(text) > MAX_CHARACTERS:
            raise ManifestError(
                f"the manifest has {len(text):,} characters; {MAX_CHARACTERS:,} are allowed"
            )
        try:
            record = json.loads(text)
        except ValueError as error:  # also for an integer of thousands of digits
            raise ManifestError(f"the manifest is not JSON: {error}") from None
        except RecursionError:
            raise ManifestError(f"the manifest is nested more than {MAX_NESTING} deep") from None
        _check("the manifest", record)  # first of all, so that messages can quote the values
        version = get(record, "manifest_version", int)
        if version > MANIFEST_VERSION:
            raise ManifestError(
                f"manifest_version is {version}, only {MANIFEST_VERSION} is read: "
                "a newer version of this program wrote it"
            )
        if version != MANIFEST_VERSION:
            raise ManifestError(
                f"manifest_version is {version}, only {MANIFEST_VERSION} is read: export it again"
            )
        preprocessing = get(record, "preprocessing", dict)
        return cls(
            name=get(record, "name", str),
            version=get(record, "version", int),
            architecture=get(record, "architecture", dict),
            classes=tuple(list_of(record, "classes", str)),
            recipe=_recipe(preprocessing),
            mean=_rgb(preprocessing, "mean"),
            std=_rgb(preprocessing, "std"),
            opset=get(record, "opset", int),
            precision=get(record, "precision", str),
            inputs=tuple(_tensor(t) for t in list_of(record, "inputs", dict)),
            outputs=tuple(_tensor(t) for t in list_of(record, "outputs", dict)),
            metrics=tuple(_metrics(m) for m in list_of(record, "metrics", dict)),
            training=get(record, "training", dict),
            parity=get(record, "parity", dict),
            trust=None if record.get("trust") is None else Trust.read(get(record, "trust", dict)),
        )


def _check(key: str, value: Any, depth: int = 0) -> None:
    """Raise ManifestError for values that JSON cannot hold, or that its readers read differently."""
    if depth > MAX_NESTING:
        raise ManifestError(f"{key} is nested more than {MAX_NESTING} deep")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ManifestError(f"{key} has text that is not Unicode: {value[:40]!r}") from None
    elif isinstance(value, float) and not math.isfinite(value):
        raise ManifestError(f"{key} has the number {value}, which JSON cannot hold")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ManifestError(f"{key} has an integer of more than {MAX_INTEGER.bit_length()} bits")
    elif is_dataclass(value):
        _check(key, vars(value), depth)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check(key, name, depth + 1)
            _check(name if name.isidentifier() and len(name) <= 40 else key, item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(key, item, depth + 1)


def _check_displayed(key: str, text: str) -> None:
    """Raise ManifestError for a text that is too long to show, or has control characters."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ManifestError(
            f"{key} has a text of {len(text):,} characters; {MAX_TEXT_CHARACTERS:,} are allowed"
        )
    if CONTROL.search(text):
        raise ManifestError(f"{key} has control characters in {text[:40]!a}; use plain text")


def _recipe(preprocessing: dict[str, Any]) -> Recipe:
    """Return the recipe with the manifest's id.

    The values spelled out beside the id are for readers without this code. They must agree with it.
    """
    recipe_id = get(preprocessing, "id", str)
    if recipe_id not in RECIPES:
        raise ManifestError(f"preprocessing id {recipe_id[:80]!r} is unknown; known: {', '.join(RECIPES)}")
    recipe = RECIPES[recipe_id]
    for key, value in (asdict(recipe) | {"filter": FILTER}).items():
        # Settings added later have a default, and older files lack them.
        if preprocessing.get(key, getattr(Recipe, key, None)) != value:
            raise ManifestError(
                f"preprocessing.{key} is {preprocessing.get(key)!r:.80}; {recipe_id} means {value!r}"
            )
    return recipe


def _rgb(record: dict[str, Any], key: str) -> tuple[float, float, float]:
    values = list_of(record, key, float)
    if len(values) != 3:
        raise ManifestError(f"{key} has {len(values)} values; it must have one each for R, G and B")
    return (values[0], values[1], values[2])


def _tensor(record: dict[str, Any]) -> Tensor:
    return Tensor(
        name=get(record, "name", str),
        dtype=get(record, "dtype", str),
        shape=tuple(
            None if n is None else get({"shape": n}, "shape", int) for n in get(record, "shape", list)
        ),
        meaning=get(record, "meaning", str),
    )


def _metrics(record: dict[str, Any]) -> Metrics:
    return Metrics(
        data=get(record, "data", str),
        images=get(record, "images", int),
        crops=get(record, "crops", int),
        top1=get(record, "top1", float),
        top5=get(record, "top5", float),
    )

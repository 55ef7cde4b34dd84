"""Define the manifest's section `trust`: what a model's probabilities mean, and when not to use them.

It is fitted and measured at export, on held-out photographs. `unfamiliarity` is an output of the graph: the
share of held-out photographs that are more familiar to the network than an image, 0 to 1.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from contract.fields import ManifestError, get, list_of

UNFAMILIARITY: Final = "unfamiliarity"  # the output's name
METHODS: Final = ("halves", "cross-fitting")
MIN_COVERAGE, MAX_COVERAGE = 0.5, 0.99
COVERAGES: Final = tuple(f"{percent / 100:.2f}" for percent in range(50, 100))  # keys of `quantiles`


@dataclass(frozen=True)
class Share:
    """A measured share, 0 to 1, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1 or not 0 <= self.value <= 1:
            raise ManifestError(
                f"{self.value} with the interval {self.low} to {self.high} must be 0 to 1, low before high"
            )


@dataclass(frozen=True)
class CoverageResult:
    """The share of photographs whose prediction set of `coverage` had their class, and its mean size."""

    coverage: float
    achieved: Share
    mean_size: float

    def __post_init__(self) -> None:
        if not 0 < self.coverage < 1:
            raise ManifestError(f"trust: coverage is {self.coverage}; it must be between 0 and 1")
        if not 0 <= self.mean_size < math.inf:
            raise ManifestError(f"trust: mean_size is {self.mean_size}; it must be 0 or more")


@dataclass(frozen=True)
class UnfamiliarResult:
    """The measurement of `images` pictures of the folder `data`, which show none of the classes.

    `auroc` is the probability that one of them has a higher unfamiliarity than a held-out photograph.
    `fpr95` is the share of them below the unfamiliarity that 95 % of the held-out photographs do not
    exceed. `known_and_probable` is the share that is known and has a probability above 0.5.
    """

    data: str
    images: int
    auroc: float
    fpr95: float
    known_and_probable: float

    def __post_init__(self) -> None:
        _check_count("images", self.images)
        for name in ("auroc", "fpr95", "known_and_probable"):
            _check_share(name, getattr(self, name))


@dataclass(frozen=True)
class Familiarity:
    """The output `unfamiliarity`: an image above `unknown_above` is unknown.

    `references` training photographs and `background` pictures of other things are in the graph. `known` is
    the share of held-out photographs that were known.
    """

    unknown_above: float
    known: Share
    references: int
    background: int
    unfamiliar: tuple[UnfamiliarResult, ...] = ()

    def __post_init__(self) -> None:
        _check_share("unknown_above", self.unknown_above)
        _check_count("references", self.references)
        _check_count("background", self.background, 0)


@dataclass(frozen=True)
class Trust:
    """What was fitted and measured on `photographs` held-out photographs.

    `method` is "halves" (one half to fit, the other to measure) or "cross-fitting" (measured on parts that
    the fit left out; the file has the fit to all). The graph divides the logits by `temperature`.
    `ece_before` and `ece` are expected calibration errors without and with it. `quantiles` are those of 1 -
    the probability of the true class, by coverage ("0.90"), as far as the photographs support them.
    `familiarity` is None if the graph has no output `unfamiliarity`.
    """

    photographs: int
    method: str
    temperature: float
    ece_before: Share
    ece: Share
    quantiles: dict[str, float]
    sets: tuple[CoverageResult, ...]
    familiarity: Familiarity | None

    def __post_init__(self) -> None:
        _check_count("photographs", self.photographs)
        if self.method not in METHODS:
            raise ManifestError(f"trust: method is {self.method!r:.80}; use {' or '.join(METHODS)}")
        if not 0 < self.temperature < math.inf:
            raise ManifestError(f"trust: temperature is {self.temperature}; it must be above 0")
        if tuple(self.quantiles) != COVERAGES[: len(self.quantiles)]:
            raise ManifestError("trust: quantiles must be for 0.50, 0.51 and so on, without a gap")
        values = list(self.quantiles.values())
        if values != sorted(values) or not all(0 <= value <= 1 for value in values):
            raise ManifestError("trust: quantiles must be 0 to 1 and ascend with the coverage")

    @property
    def max_coverage(self) -> float:
        """The highest coverage that the photographs support; 0 if they support none."""
        return float(list(self.quantiles)[-1]) if self.quantiles else 0.0

    def quantile(self, coverage: float) -> float:
        """Return the quantile for `coverage`, of the next higher whole percent. Raises ValueError."""
        percent = math.ceil(round(100 * coverage, 6)) if 0 <= coverage <= 1 else 0
        if not 0 <= percent - 50 < len(self.quantiles):
            raise ValueError(
                f"coverage is {coverage:g}; this model's {self.photographs:,} photographs support "
                + (f"{MIN_COVERAGE} to {self.max_coverage}" if self.quantiles else "none")
            )
        return self.quantiles[COVERAGES[percent - 50]]

    def record(self) -> dict[str, Any]:
        """Return the section as the manifest has it."""
        return asdict(self)

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Read what `record` returns. Raises ManifestError."""
        familiarity = record.get("familiarity")
        quantiles = get(record, "quantiles", dict)
        return cls(
            photographs=get(record, "photographs", int),
            method=get(record, "method", str),
            temperature=get(record, "temperature", float),
            ece_before=_share(record, "ece_before"),
            ece=_share(record, "ece"),
            quantiles={key: get({"quantiles": q}, "quantiles", float) for key, q in quantiles.items()},
            sets=tuple(
                CoverageResult(
                    get(row, "coverage", float), _share(row, "achieved"), get(row, "mean_size", float)
                )
                for row in list_of(record, "sets", dict)
            ),
            familiarity=None if familiarity is None else _familiarity(get(record, "familiarity", dict)),
        )


def _familiarity(record: dict[str, Any]) -> Familiarity:
    return Familiarity(
        unknown_above=get(record, "unknown_above", float),
        known=_share(record, "known"),
        references=get(record, "references", int),
        background=get(record, "background", int),
        unfamiliar=tuple(
            UnfamiliarResult(
                get(row, "data", str),
                get(row, "images", int),
                *(get(row, key, float) for key in ("auroc", "fpr95", "known_and_probable")),
            )
            for row in list_of(record, "unfamiliar", dict)
        ),
    )


def _share(record: dict[str, Any], key: str) -> Share:
    values = get(record, key, dict)
    try:
        return Share(*(get(values, name, float) for name in ("value", "low", "high")))
    except ManifestError as error:
        raise ManifestError(f"{key}: {error}") from None


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ManifestError(f"trust: {name} is {value}; it must be 0 to 1")


def _check_count(name: str, value: int, minimum: int = 1) -> None:
    if value < minimum:
        raise ManifestError(f"trust: {name} is {value}; it must be {minimum} or more")

"""Which model answers a request: the one that it names, or the default."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.errors import InvalidRequest, NotReady, UnknownModel
from service.models.default_model import DefaultModel
from service.models.discovery import FileSignature, ModelLocation, normal
from service.models.serving import ServingModel
from service.observability.metrics import Metrics
from service.settings import Settings


@dataclass
class Registration:
    """What became of a place: `served`, and `error`, why its file as it is now is not what is served."""

    place: ModelLocation
    stamp: FileSignature | None = None  # of the file that was read; None: the next look reads it again
    served: ServingModel | None = None
    error: str | None = None
    missed: int = 0  # looks in a row that did not find the file
    rival: ServingModel | None = None  # has this file's name and version, so this one is not served
    known_as: str | None = None  # what it was served as before it was unloaded

    @property
    def name(self) -> str:
        if self.served:
            return self.served.name.name
        return self.place.name or self.known_as or self.place.path.stem

    @property
    def version(self) -> int | None:
        return self.served.name.version if self.served else self.place.version

    @property
    def current(self) -> bool:
        """Its file as it is now is served."""
        return self.served is not None and self.error is None

    @property
    def state(self) -> Literal["READY", "UNAVAILABLE"]:
        return "READY" if self.served else "UNAVAILABLE"


class Catalog:
    """On the event loop; what is in it changes in `Repository`."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._default = DefaultModel(settings)
        self._sources: dict[Path, Registration] = {}
        self.sources: list[Registration] = []  # by name, the newest version first
        self._served: list[ServingModel] = []

    @property
    def served(self) -> Iterator[ServingModel]:
        """The default model first, then by name, each with the newest version first."""
        return iter(self._served)

    def find(self, name: str | None = None, version: int | None = None) -> ServingModel:
        """The newest version unless one is named, of the default model unless one is named. Raises
        InvalidRequest where there is no default, UnknownModel and NotReady.
        """
        wanted = self._default.name if name is None else normal(name)
        if wanted is None:
            raise InvalidRequest(
                "several models are served and none is the default: name one with ?model=, or set "
                f"DEFAULT_MODEL; the models here are {', '.join(self._names())}"
            )
        sources = [s for s in self.sources if s.name == wanted and version in {None, s.version}]
        for source in sources:
            if source.served:
                return source.served
        if sources or (name is None and version is None):
            which = f"DEFAULT_MODEL is {wanted}, which" if name is None else f"model {wanted}"
            reason = sources[0].error if sources else "there is no file of it"
            others = ", ".join(self._names()) or "none"
            raise NotReady(f"{which} is not served: {reason}; the models here, for ?model=, are {others}")
        shown = wanted[:80] if version is None else f"{wanted[:80]} version {str(version)[:16]}"
        known = ", ".join(f"{one.name.name} version {one.name.version}" for one in self.served)
        raise UnknownModel(
            f"there is no model {shown}; the models here, for ?model=, are {known or 'none'}"
        )

    def _names(self) -> list[str]:
        return list(dict.fromkeys(source.name for source in self.sources if source.served))

    def _arrange(self) -> None:
        """After every change of `_sources`, before the event loop goes on."""
        self.sources = sorted(self._sources.values(), key=lambda s: (s.name, -(s.version or 0)))
        self._default.choose(self._names(), dict.fromkeys(s.name for s in self.sources if s.current))
        served = [source.served for source in self.sources if source.served]
        self._served = sorted(served, key=lambda one: one.name.name != self._default.name)
        self._metrics.set_models([(one.name, one.model.provider) for one in self._served])

"""Find the model that answers a request: the one that it names, or the default."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.errors import InvalidRequest, NotReady, UnknownModel
from service.models.default_model import DefaultModel
from service.models.discovery import FileSignature, ModelLocation, normalize_name
from service.models.serving import ServingModel
from service.observability.metrics import Metrics
from service.settings import Settings


@dataclass
class Registration:
    """A model file that was found, the model `served` from it, and the `error` of its file as it is now."""

    location: ModelLocation
    signature: FileSignature | None = None  # of the file that was read; None: the next scan reads it again
    served: ServingModel | None = None
    error: str | None = None
    missed: int = 0  # scans in a row that did not find the file
    duplicate_of: ServingModel | None = None  # serves the same name and version from another file
    last_name: str | None = None  # its name before it was unloaded

    @property
    def name(self) -> str:
        if self.served:
            return self.served.name.name
        return self.location.name or self.last_name or self.location.path.stem

    @property
    def version(self) -> int | None:
        return self.served.name.version if self.served else self.location.version

    @property
    def current(self) -> bool:
        """Whether the file as it is now is served."""
        return self.served is not None and self.error is None

    @property
    def state(self) -> Literal["READY", "UNAVAILABLE"]:
        return "READY" if self.served else "UNAVAILABLE"


class Catalog:
    """The registered models, sorted and searched; `Repository` changes them. Use it on the event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._metrics = metrics
        self._default = DefaultModel(settings)
        self._registrations: dict[Path, Registration] = {}
        self.registrations: list[Registration] = []  # by name, the newest version first
        self._served: list[ServingModel] = []

    @property
    def served(self) -> Iterator[ServingModel]:
        """The default model first, then by name, each with the newest version first."""
        return iter(self._served)

    def find(self, name: str | None = None, version: int | None = None) -> ServingModel:
        """Find a served model: the default one without a name, the newest version without a version.

        Raises InvalidRequest if there is no default model, UnknownModel, and NotReady.
        """
        model_name = self._default.name if name is None else normalize_name(name)
        if model_name is None:
            raise InvalidRequest(
                "several models are served and none is the default: name one with ?model=, or set "
                f"DEFAULT_MODEL; the models here are {', '.join(self._names())}"
            )
        registrations = [
            s for s in self.registrations if s.name == model_name and version in {None, s.version}
        ]
        for registration in registrations:
            if registration.served:
                return registration.served
        if registrations or (name is None and version is None):
            subject = f"DEFAULT_MODEL is {model_name}, which" if name is None else f"model {model_name}"
            reason = registrations[0].error if registrations else "it has no file"
            served_names = ", ".join(self._names()) or "none"
            raise NotReady(
                f"{subject} is not served: {reason}; the models here, for ?model=, are {served_names}"
            )
        label = model_name[:80] if version is None else f"{model_name[:80]} version {str(version)[:16]}"
        known = ", ".join(f"{model.name.name} version {model.name.version}" for model in self.served)
        raise UnknownModel(
            f"there is no model {label}; the models here, for ?model=, are {known or 'none'}"
        )

    def _names(self) -> list[str]:
        return list(
            dict.fromkeys(registration.name for registration in self.registrations if registration.served)
        )

    def _arrange(self) -> None:
        """Sort again; call it after every change of `_registrations`, before the event loop continues."""
        self.registrations = sorted(self._registrations.values(), key=lambda s: (s.name, -(s.version or 0)))
        self._default.choose(self._names(), dict.fromkeys(s.name for s in self.registrations if s.current))
        served = [registration.served for registration in self.registrations if registration.served]
        self._served = sorted(served, key=lambda model: model.name.name != self._default.name)
        self._metrics.set_models([(serving.name, serving.model.provider) for serving in self._served])

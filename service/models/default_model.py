"""Choose the default model, which answers requests that name none.

It is DEFAULT_MODEL, else the only model, else the one that comes with the service. A model that has become
the default remains it while it is served.
"""

from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import quote

from service.models.discovery import model_locations, normalize_name
from service.observability.logs import log
from service.settings import Settings, SettingsError

SHIPPED: Final = "flowers17"


def configured_default(settings: Settings) -> str:
    """Return DEFAULT_MODEL in normal form; empty if MODEL is set, which is then the only model."""
    return "" if settings.model is not None else normalize_name(settings.default_model)


def default_name(setting: str, names: Collection[str]) -> str | None:
    """Choose the default among `names`: `setting` unless empty; None if none is clear."""
    if setting:
        return setting
    if len(names) == 1:
        return next(iter(names))
    return SHIPPED if SHIPPED in names else None


def require_file(settings: Settings) -> None:
    """Raise SettingsError if DEFAULT_MODEL names a model without a file and there are others."""
    default = configured_default(settings)
    names = sorted(
        {location.name for location in model_locations(settings) if location.name and not location.error}
    )
    if default and names and default not in names:
        raise SettingsError(
            f"DEFAULT_MODEL is {settings.default_model!r}, which is not in {settings.models.name}; "
            f"the models there are {', '.join(names)}"
        )


def describe_models(settings: Settings, models: Sequence[tuple[str, int]]) -> tuple[str, str]:
    """Describe the models for people, and return the path of a request that one of them answers."""
    names = dict.fromkeys(name for name, _version in models)
    default = default_name(configured_default(settings), names)
    mark = {default: " (default)"} if len(names) > 1 else {}
    words = ", ".join(f"{name} version {version}{mark.get(name, '')}" for name, version in models)
    return words, "/predict" if default in names else f"/predict?model={quote(next(iter(names)), safe='')}"


class DefaultModel:
    """The name of the default model while the process runs; None if there is none."""

    def __init__(self, settings: Settings) -> None:
        self.setting = configured_default(settings)
        self.name: str | None = None
        self._notice: str | None = None

    def choose(self, served: Collection[str], on_disk: Collection[str]) -> None:
        """Choose among the models that are `served`; those `on_disk` are what a restart would find.

        Logs what changes, and what a restart would change.
        """
        if not served:
            return
        if self.name not in served:
            previous, self.name = self.name, default_name(self.setting, served)
            if previous not in {None, self.name}:
                log.warning(
                    "%s is not served any more; requests without ?model= get %s", previous, self.name or 422
                )
        notice = self._notice_of(served, on_disk)
        if notice is not None and notice != self._notice:
            log.warning(notice)
        self._notice = notice

    def _notice_of(self, served: Collection[str], on_disk: Collection[str]) -> str | None:
        if self.name is None:
            return f"requests without ?model= get 422; set DEFAULT_MODEL to one of {', '.join(served)}"
        at_start = default_name(self.setting, on_disk)
        if self.name not in on_disk or at_start == self.name:
            return None
        return (
            f"requests without ?model= get {self.name}, but after a restart {at_start or 422}; "
            f"DEFAULT_MODEL={self.name} keeps it so"
        )

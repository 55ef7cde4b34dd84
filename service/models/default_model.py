"""Which model answers a request that names none: DEFAULT_MODEL, else the only one, else the one that comes
with the service. What has become the default stays it while it is served.
"""

from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import quote

from service.models.discovery import normal, places
from service.observability.logs import log
from service.settings import Settings, SettingsError

SHIPPED: Final = "flowers17"


def configured(settings: Settings) -> str:
    """DEFAULT_MODEL; nothing where MODEL is served alone."""
    return "" if settings.model is not None else normal(settings.default_model)


def default_name(configured: str, names: Collection[str]) -> str | None:
    """Pick the one of `names` that answers where none is named; None where that is not clear."""
    if configured:
        return configured
    if len(names) == 1:
        return next(iter(names))
    return SHIPPED if SHIPPED in names else None


def require_file(settings: Settings) -> None:
    """Raise SettingsError where DEFAULT_MODEL names a model without a file, and there are others."""
    wanted = configured(settings)
    names = sorted({place.name for place in places(settings) if place.name and not place.error})
    if wanted and names and wanted not in names:
        raise SettingsError(
            f"DEFAULT_MODEL is {settings.default_model!r}, which is not in {settings.models.name}; "
            f"the models there are {', '.join(names)}"
        )


def announced(settings: Settings, models: Sequence[tuple[str, int]]) -> tuple[str, str]:
    """Write the names and versions for people, and the path of a request that gets an answer."""
    names = dict.fromkeys(name for name, _version in models)
    default = default_name(configured(settings), names)
    mark = {default: " (default)"} if len(names) > 1 else {}
    words = ", ".join(f"{name} version {version}{mark.get(name, '')}" for name, version in models)
    return words, "/predict" if default in names else f"/predict?model={quote(next(iter(names)), safe='')}"


class DefaultModel:
    """The name of the model that answers where none is named, while the process runs; None: none does."""

    def __init__(self, settings: Settings) -> None:
        self.configured = configured(settings)
        self.name: str | None = None
        self._notice: str | None = None

    def choose(self, served: Collection[str], there: Collection[str]) -> None:
        """Choose among the models that are `served`; a restart finds those of them that are `there`.

        The log has what changes, and what a restart would change.
        """
        if not served:
            return
        if self.name not in served:
            before, self.name = self.name, default_name(self.configured, served)
            if before not in {None, self.name}:
                log.warning(
                    "%s is not served any more; requests without ?model= get %s", before, self.name or 422
                )
        notice = self._notice_of(served, there)
        if notice is not None and notice != self._notice:
            log.warning(notice)
        self._notice = notice

    def _notice_of(self, served: Collection[str], there: Collection[str]) -> str | None:
        if self.name is None:
            return f"requests without ?model= get 422; set DEFAULT_MODEL to one of {', '.join(served)}"
        at_start = default_name(self.configured, there)
        if self.name not in there or at_start == self.name:
            return None
        return (
            f"requests without ?model= get {self.name}, but after a restart {at_start or 422}; "
            f"DEFAULT_MODEL={self.name} keeps it so"
        )

"""Load, reload, unload and remove models as their files change or an administrator asks."""

import asyncio
import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from service.errors import ModelError, UnknownModel
from service.host import trim
from service.models.catalog import Catalog, Registration
from service.models.discovery import FileSignature, ModelLocation, normalize_name, scan
from service.models.loading import Load, Loader, LoadResult
from service.models.serving import ServingModel
from service.observability.logs import log
from service.observability.metrics import Metrics
from service.settings import Settings

UNLOADED: Final = "it was unloaded"


async def _free_when_unused(served: ServingModel) -> None:
    """Wait until no request uses the model, then collect garbage and trim glibc's heap.

    Otherwise 50 MB stay taken (for 14 MB of weights): the collector would break the reference cycles only
    after hours, and glibc would keep the freed pages.
    """
    await served.wait_until_unused()
    del served
    await asyncio.to_thread(gc.collect)
    await asyncio.to_thread(trim)


class Repository(Catalog):
    """The catalog together with its files. Use it on the event loop.

    A request keeps the model that it began with: a model that is replaced or unloaded lives on until no
    request uses it.
    """

    def __init__(self, settings: Settings, results: list[LoadResult], load: Load, metrics: Metrics) -> None:
        super().__init__(settings, metrics)
        self._settings = settings
        self._loader = Loader(load)
        self._tasks: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks weakly
        self._lock = asyncio.Lock()  # for one change at a time
        for result in results:
            self._register(result)
        self._arrange()

    async def refresh(self, changed_only: bool) -> None:
        """Load new files, and with `changed_only` the changed ones, else all others again.

        A bad file changes nothing but its `Registration.error`. A file whose model was unloaded is not read
        again until `load`. A model whose file is gone is removed if another is still served from an intact
        file (for DEFAULT_MODEL: another version of it); with `changed_only` not before a second scan misses
        the file, because some programs replace a file by removing it first.
        """
        async with self._lock:
            locations, signatures = await self._scan()
            due = [p for p in locations if self._is_due(p.path, signatures.get(p.path), changed_only)]
            await self._read(due)
            self._remove_gone(self._registrations.values(), scans=2 if changed_only else 1)

    async def load(self, name: str) -> None:
        """Load every version of a model from its files as they are now.

        Goes on if the caller is cancelled, because reading cannot be stopped half way. Raises UnknownModel,
        and ModelError if any version failed; the others are loaded all the same.
        """
        loading = asyncio.create_task(self._load_all(normalize_name(name)))
        self._tasks.add(loading)
        loading.add_done_callback(self._tasks.discard)
        await asyncio.shield(loading)

    async def _load_all(self, name: str) -> None:
        async with self._lock:
            locations, _signatures = await self._scan()
            versions = [p for p in locations if name in {p.name, self._name_at(p.path)}]
            if not versions:
                raise UnknownModel(f"there is no file of a model {name[:80]}")
            await self._read(versions)
            self._remove_gone([s for s in self._registrations.values() if s.name == name], scans=1)
        errors = [s.error for s in self.registrations if s.name == name and s.error]
        if errors:
            raise ModelError("; ".join(errors))

    async def unload(self, name: str) -> None:
        """Unload every version of a model; requests in flight are still answered. Raises UnknownModel."""
        name = normalize_name(name)
        async with self._lock:
            registrations = [r for r in self._registrations.values() if r.name == name]
            if not registrations:
                raise UnknownModel(f"there is no model {name[:80]}")
            for registration in registrations:
                self._retire(registration.served)
                registration.last_name = registration.name
                registration.served, registration.error = None, UNLOADED
                registration.duplicate_of = None
            self._arrange()

    async def _scan(self) -> tuple[list[ModelLocation], dict[Path, FileSignature | None]]:
        """List the files; note those that are gone, and forget them unless they are served."""
        known, hanging = set(self._registrations), frozenset(self._loader.hanging)
        locations, signatures = await asyncio.to_thread(scan, self._settings, known, hanging)
        present = {location.path for location in locations} | hanging
        for path in known - hanging:
            registration, gone = self._registrations[path], signatures[path] is None
            registration.missed = registration.missed + 1 if gone and path not in present else 0
            if gone and registration.served:
                registration.signature = None
                file = registration.location.file
                self._set_error(
                    registration, f"{file} is gone; the model that was loaded from it is served"
                )
            elif path not in present and not registration.served and registration.error != UNLOADED:
                del self._registrations[path]
        self._arrange()
        return locations, signatures

    def _is_due(self, path: Path, signature: FileSignature | None, changed_only: bool) -> bool:
        registration = self._registrations.get(path)
        if registration is None:
            return True
        if registration.error == UNLOADED or path in self._loader.hanging:
            return False
        return not changed_only or signature not in {None, registration.signature}

    async def _read(self, locations: Iterable[ModelLocation]) -> None:
        """Read the files; then the duplicates that no intact file stands in the way of any more.

        A duplicate has the name and version of another file. It takes them over once that one is no longer
        served as it is on the disk.
        """
        for location in locations:
            self._register(await self._loader.read(location))
            self._arrange()
        current = {r.served for r in self._registrations.values() if r.current}
        duplicates = [r for r in self._registrations.values() if r.duplicate_of]
        for registration in [r for r in duplicates if r.duplicate_of not in current]:
            self._register(await self._loader.read(registration.location))
        self._arrange()

    def _register(self, result: LoadResult) -> None:
        path = result.location.path
        registration = self._registrations.setdefault(path, Registration(result.location))
        registration.signature, registration.duplicate_of = result.signature, None
        self._set_error(registration, result.error)
        if result.model is None:
            return
        name, version = result.name, result.version
        others = (r for r in self._registrations.values() if r is not registration and r.served)
        twin = next((other for other in others if (other.name, other.version) == (name, version)), None)
        if twin is not None and twin.current:
            registration.duplicate_of = twin.served
            self._set_error(registration, f"{name} version {version} is {twin.location.file} already")
            return
        if twin is not None:
            self._forget(twin)
        self._retire(registration.served)
        registration.served = ServingModel(result.model, name, version)

    def _remove_gone(self, registrations: Iterable[Registration], scans: int) -> None:
        """Remove models whose file so many `scans` missed, if another model can take their place.

        That is any model whose file is served, but for DEFAULT_MODEL only another version of it. So the
        last model is never removed.
        """
        current = [registration for registration in self._registrations.values() if registration.current]
        for registration in list(registrations):
            is_default = registration.name == self._default.setting
            replaceable = any(s.name == registration.name for s in current) if is_default else current
            if registration.served and registration.missed >= scans and replaceable:
                gone = (registration.location.file, registration.name, registration.version)
                log.warning("%s is gone; %s version %s is not served any more", *gone)
                self._forget(registration)
        self._arrange()

    def _forget(self, registration: Registration) -> None:
        del self._registrations[registration.location.path]
        self._retire(registration.served)

    def _set_error(self, registration: Registration, error: str | None) -> None:
        """Set the error, and log it if it is a new one."""
        if error is not None and error != registration.error:
            instead = " (the one loaded before still is)" if registration.served else ""
            log.error("the model file is not served%s: %s", instead, error)
        registration.error = error

    def _name_at(self, path: Path) -> str | None:
        registration = self._registrations.get(path)
        return registration.name if registration else None

    def _retire(self, served: ServingModel | None) -> None:
        if served is not None:
            freeing = asyncio.create_task(_free_when_unused(served))
            self._tasks.add(freeing)
            freeing.add_done_callback(self._tasks.discard)

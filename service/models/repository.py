"""The models that are served: loaded, replaced, taken out."""

import asyncio
import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from service.errors import ModelError, UnknownModel
from service.host import trim
from service.models.catalog import Catalog, Registration
from service.models.discovery import FileSignature, ModelLocation, look, normal
from service.models.loading import Load, Loader, LoadResult
from service.models.serving import ServingModel
from service.observability.logs import log
from service.observability.metrics import Metrics
from service.settings import Settings

UNLOADED: Final = "it was unloaded"


async def _retire(served: ServingModel) -> None:
    """Once nobody uses it, gives its memory back, 50 MB for 14 MB of weights: it is held by cycles that
    the collector would come to after hours, and glibc keeps what is freed.
    """
    await served.wait_until_unused()
    del served
    await asyncio.to_thread(gc.collect)
    await asyncio.to_thread(trim)


class Repository(Catalog):
    """On the event loop. A request stays with the model that it began with: what is replaced or unloaded
    goes on until nobody uses it.
    """

    def __init__(self, settings: Settings, found: list[LoadResult], load: Load, metrics: Metrics) -> None:
        super().__init__(settings, metrics)
        self._settings = settings
        self._loader = Loader(load)
        self._under_way: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly
        self._changing = asyncio.Lock()
        for one in found:
            self._put(one)
        self._arrange()

    async def refresh(self, changed_only: bool) -> None:
        """Loads what is new, and what has changed or everything. A file that is bad changes nothing but
        `error`; what was unloaded stays so. A file that is gone takes its model with it where another can
        take its place; with `changed_only` if the look before has missed it too, because some programs
        replace a file by removing it first.
        """
        async with self._changing:
            found, stamps = await self._look()
            await self._read([p for p in found if self._is_due(p.path, stamps.get(p.path), changed_only)])
            self._remove_gone(self._sources.values(), looks=2 if changed_only else 1)

    async def load(self, name: str) -> None:
        """Every version of a model, from its files as they are now. Raises UnknownModel and ModelError.
        Goes on when whoever asked for it has gone: reading cannot be stopped half way.
        """
        loading = asyncio.create_task(self._load_all(normal(name)))
        self._under_way.add(loading)
        loading.add_done_callback(self._under_way.discard)
        await asyncio.shield(loading)

    async def _load_all(self, name: str) -> None:
        async with self._changing:
            found, _stamps = await self._look()
            wanted = [place for place in found if name in {place.name, self._name_at(place.path)}]
            if not wanted:
                raise UnknownModel(f"there is no file of a model {name[:80]}")
            await self._read(wanted)
            self._remove_gone([s for s in self._sources.values() if s.name == name], looks=1)
        errors = [s.error for s in self.sources if s.name == name and s.error]
        if errors:
            raise ModelError("; ".join(errors))

    async def unload(self, name: str) -> None:
        """Every version of a model; requests under way are answered. Raises UnknownModel."""
        name = normal(name)
        async with self._changing:
            sources = [source for source in self._sources.values() if source.name == name]
            if not sources:
                raise UnknownModel(f"there is no model {name[:80]}")
            for source in sources:
                self._retire(source.served)
                source.known_as = source.name
                source.served, source.error, source.rival = None, UNLOADED, None
            self._arrange()

    async def _look(self) -> tuple[list[ModelLocation], dict[Path, FileSignature | None]]:
        """Look at the files; one that is gone is served on for now, and forgotten if it was not served."""
        known, hanging = set(self._sources), frozenset(self._loader.hanging)
        found, stamps = await asyncio.to_thread(look, self._settings, known, hanging)
        there = {place.path for place in found} | hanging
        for path in known - hanging:
            source, gone = self._sources[path], stamps[path] is None
            source.missed = source.missed + 1 if gone and path not in there else 0
            if gone and source.served:
                source.stamp = None
                self._note(source, f"{source.place.file} is gone; what was in it is served")
            elif path not in there and not source.served and source.error != UNLOADED:
                del self._sources[path]
        self._arrange()
        return found, stamps

    def _is_due(self, path: Path, stamp: FileSignature | None, changed_only: bool) -> bool:
        source = self._sources.get(path)
        if source is None:
            return True
        if source.error == UNLOADED or path in self._loader.hanging:
            return False
        return not changed_only or stamp not in {None, source.stamp}

    async def _read(self, wanted: Iterable[ModelLocation]) -> None:
        """Read the files, and then those whose name and version another one has had until now.

        Only a file that is served as it is now keeps its name and version from another.
        """
        for place in wanted:
            self._put(await self._loader.read(place))
            self._arrange()
        keep = {source.served for source in self._sources.values() if source.current}
        for source in [s for s in self._sources.values() if s.rival and s.rival not in keep]:
            self._put(await self._loader.read(source.place))
        self._arrange()

    def _put(self, found: LoadResult) -> None:
        source = self._sources.setdefault(found.place.path, Registration(found.place))
        source.stamp, source.rival = found.stamp, None
        self._note(source, found.error)
        if found.model is None:
            return
        name, version = found.name, found.version
        others = (other for other in self._sources.values() if other is not source and other.served)
        twin = next((o for o in others if (o.name, o.version) == (name, version)), None)
        if twin is not None and twin.current:
            source.rival = twin.served
            self._note(source, f"{name} version {version} is {twin.place.file} already")
            return
        if twin is not None:
            self._forget(twin)
        self._retire(source.served)
        source.served = ServingModel(found.model, name, version)

    def _remove_gone(self, sources: Iterable[Registration], looks: int) -> None:
        """Remove those that were missed at so many `looks` and whose place another can take.

        That is any whose file is served; for DEFAULT_MODEL, another version of it. So the last of all is
        never removed.
        """
        there = [source for source in self._sources.values() if source.current]
        for source in list(sources):
            fixed = source.name == self._default.configured
            replaceable = any(s.name == source.name for s in there) if fixed else there
            if source.served and source.missed >= looks and replaceable:
                gone = (source.place.file, source.name, source.version)
                log.warning("%s is gone; %s version %s is not served any more", *gone)
                self._forget(source)
        self._arrange()

    def _forget(self, source: Registration) -> None:
        del self._sources[source.place.path]
        self._retire(source.served)

    def _note(self, source: Registration, error: str | None) -> None:
        """The log has an error once, however often it is met."""
        if error is not None and error != source.error:
            instead = ", what was there before it is" if source.served else ""
            log.error("the model file is not served%s: %s", instead, error)
        source.error = error

    def _name_at(self, path: Path) -> str | None:
        source = self._sources.get(path)
        return source.name if source else None

    def _retire(self, served: ServingModel | None) -> None:
        if served is not None:
            retiring = asyncio.create_task(_retire(served))
            self._under_way.add(retiring)
            retiring.add_done_callback(self._under_way.discard)

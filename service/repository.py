"""The models that are served, by name and version: found, loaded, replaced, taken out.

MODEL is one file, under the name and version of its manifest. MODELS is a folder of NAME.onnx and
NAME/VERSION/model.onnx, where the path says the name and the folder the version.
"""

import asyncio
import gc
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from contract.manifest import CONTROL
from service.errors import InvalidRequest, NotReady, UnknownModel
from service.logs import log
from service.memory import trim
from service.metrics import Metrics
from service.served import Served
from service.session import Model, ModelError
from service.settings import Settings

Load = Callable[[Path], Model]
Stamp = tuple[int, int, int]

LOAD_TIMEOUT_S: Final = 120.0  # the largest network of ours takes 2 s from a fast disk
UNLOADED: Final = "it was unloaded"


@dataclass(frozen=True)
class Place:
    """Where a model file lies, and what its path says of it."""

    path: Path
    name: str | None = None
    version: int | None = None
    error: str | None = None  # why its name cannot be served


@dataclass
class Source:
    """What became of a place: `served`, and `error`, why its file as it is now is not what is served."""

    place: Place
    stamp: Stamp | None
    served: Served | None = None
    error: str | None = None
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
    def state(self) -> Literal["READY", "UNAVAILABLE"]:
        return "READY" if self.served else "UNAVAILABLE"


@dataclass(frozen=True)
class Found:
    """A place that was read; an error instead of a model where the file cannot be used."""

    place: Place
    stamp: Stamp | None
    model: Model | None
    error: str | None

    @property
    def name(self) -> str:
        """Of a model: the path's, else the manifest's."""
        assert self.model is not None
        return self.place.name or self.model.manifest.name

    @property
    def version(self) -> int:
        assert self.model is not None
        return self.place.version or self.model.manifest.version


def places(settings: Settings) -> list[Place]:
    """List every model file that there is now. Raises ModelError if MODEL's name is not plain text."""
    if settings.model is not None:
        if (name := settings.model.name) != (shown := escaped(name)):
            raise ModelError(f"MODEL is a file named '{shown}'; rename it to plain text in UTF-8")
        return [Place(settings.model)]
    folder = settings.models
    files = [_place(path, path.stem, None) for path in sorted(folder.glob("*.onnx"))]
    numbered = (path for path in sorted(folder.glob("*/*/model.onnx")) if _is_version(path.parent.name))
    return files + [_place(path, path.parent.parent.name, int(path.parent.name)) for path in numbered]


def _is_version(text: str) -> bool:
    return re.fullmatch("[0-9]{1,15}", text) is not None and int(text) > 0


def _place(path: Path, name: str, version: int | None) -> Place:
    """Take the name as it is written in Unicode's normal form; one that is not plain text is an error."""
    shown = escaped(name)
    if shown != name:
        error = f"the name '{shown}' is not plain text in UTF-8 without control characters; rename it"
        return Place(path, shown, version, error)
    return Place(path, unicodedata.normalize("NFC", name), version)


def escaped(name: str) -> str:
    """Escape bytes of a file's name that are not UTF-8, and control characters."""
    text = os.fsencode(name).decode("utf-8", errors="backslashreplace")
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def read(place: Place, load: Load) -> Found:
    """Loads the file. What is wrong with it is said, not raised."""
    stamp = stamp_of(place.path)
    if place.error is not None:
        return Found(place, stamp, None, place.error)
    log.info("loading and warming %s", place.path.name)
    try:
        model = load(place.path)
        if _written_since(place.path, stamp):
            raise ModelError(f"{place.path.name} was written to while it was read; replace it in one step")
        return Found(place, stamp, model, None)
    except ModelError as error:
        return Found(place, stamp, None, str(error))
    except Exception:  # our own bug, or no memory: the other models are served all the same
        log.exception("%s cannot be loaded", place.path.name)
        return Found(place, stamp, None, f"{place.path.name} cannot be loaded; the log says why")


def read_all(settings: Settings, load: Load) -> list[Found]:
    """Every model; raises ModelError where there is none to serve."""
    found = [read(place, load) for place in places(settings)]
    errors = [one.error for one in found if one.error]
    if not found:
        raise ModelError(
            f"no NAME.onnx and no NAME/VERSION/model.onnx in {settings.models.name}; train and export one, "
            "or set MODEL to a file"
        )
    if len(errors) == len(found):
        raise ModelError("; ".join(errors))
    for error in errors:
        log.error("a model is not served: %s", error)
    return found


def stamp_of(path: Path) -> Stamp | None:
    """Changes when the file is replaced; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _written_since(path: Path, stamp: Stamp | None) -> bool:
    """Into the file itself: another one in its place, or none, is no harm to what was read."""
    now = stamp_of(path)
    return now is not None and stamp is not None and now != stamp and now[2] == stamp[2]


async def _retire(served: Served) -> None:
    """Once nobody uses it, gives its memory back, 50 MB for 14 MB of weights: it is held by cycles that
    the collector would come to after hours, and glibc keeps what is freed.
    """
    await served.retire()
    del served
    await asyncio.to_thread(gc.collect)
    await asyncio.to_thread(trim)


class Repository:
    """On the event loop. A request stays with the model that it began with: what is replaced or unloaded
    goes on until nobody uses it.
    """

    def __init__(self, settings: Settings, found: list[Found], load: Load, metrics: Metrics) -> None:
        self._settings = settings
        self._load = load
        self._metrics = metrics
        self._sources: dict[Path, Source] = {}
        self.sources: list[Source] = []  # by name, the newest version first
        self._under_way: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly
        self._changing = asyncio.Lock()
        self._hanging: set[Path] = set()  # files that a thread has been reading for too long
        for one in found:
            self._take(one)

    @property
    def served(self) -> Iterator[Served]:
        return (source.served for source in self.sources if source.served)

    def find(self, name: str | None = None, version: int | None = None) -> Served:
        """The newest version unless one is named. Raises InvalidRequest where a name is needed,
        UnknownModel and NotReady.
        """
        if name is None:
            names = list(dict.fromkeys(served.name.name for served in self.served))
            if len(names) > 1:
                raise InvalidRequest(f"model is not named; the models here are {', '.join(names)}")
            if not names:
                raise NotReady("no model is loaded")
            name = names[0]
        sources = [s for s in self.sources if s.name == name and version in {None, s.version}]
        for source in sources:
            if source.served:
                return source.served
        if sources:
            raise NotReady(f"model {name} is not served: {sources[0].error}")
        wanted = name if version is None else f"{name} version {version}"
        known = ", ".join(f"{s.name.name} version {s.name.version}" for s in self.served)
        raise UnknownModel(f"there is no model {wanted[:80]}; the models here are {known}")

    async def refresh(self, changed_only: bool) -> None:
        """Loads what is new, and what has changed or everything. A file that is bad or gone changes
        nothing but `error`; what was unloaded stays so.
        """
        async with self._changing:
            found = await asyncio.to_thread(places, self._settings)
            self._miss({place.path for place in found})
            for place in found:
                source = self._sources.get(place.path)
                if source is not None:
                    stamp = await asyncio.to_thread(stamp_of, place.path)
                    unchanged = changed_only and stamp in {None, source.stamp}
                    if unchanged or source.error == UNLOADED:
                        continue
                self._take(await self._read(place))

    async def load(self, name: str) -> None:
        """Every version of a model, from its files as they are now. Raises UnknownModel and ModelError.
        Goes on when whoever asked for it has gone: reading cannot be stopped half way.
        """
        loading = asyncio.create_task(self._load_all(name))
        self._under_way.add(loading)
        loading.add_done_callback(self._under_way.discard)
        await asyncio.shield(loading)

    async def _load_all(self, name: str) -> None:
        async with self._changing:
            found = await asyncio.to_thread(places, self._settings)
            wanted = [place for place in found if name in {place.name, self._name_at(place.path)}]
            if not wanted:
                raise UnknownModel(f"there is no file of a model {name[:80]}")
            for place in wanted:
                self._take(await self._read(place))
        errors = [s.error for s in self.sources if s.name == name and s.error]
        if errors:
            raise ModelError("; ".join(errors))

    async def unload(self, name: str) -> None:
        """Every version of a model; requests under way are answered. Raises UnknownModel."""
        async with self._changing:
            sources = [source for source in self._sources.values() if source.name == name]
            if not sources:
                raise UnknownModel(f"there is no model {name[:80]}")
            for source in sources:
                self._retire(source.served)
                source.known_as = source.name
                source.served, source.error = None, UNLOADED
            self._arrange()

    async def _read(self, place: Place) -> Found:
        """Read the file in a thread, and wait LOAD_TIMEOUT_S for it: what hangs holds up no other model.

        The thread goes on, because nothing can end it, and there is never a second one for the same file.
        """
        stamp = await asyncio.to_thread(stamp_of, place.path)
        if place.path not in self._hanging:
            reading = asyncio.create_task(asyncio.to_thread(read, place, self._load))
            done, _pending = await asyncio.wait([reading], timeout=LOAD_TIMEOUT_S)
            if done:
                return reading.result()
            self._hanging.add(place.path)
            reading.add_done_callback(lambda _task: self._hanging.discard(place.path))
        error = f"{place.path.name} takes more than {LOAD_TIMEOUT_S:g} s to load; see if its disk answers"
        return Found(place, stamp, None, error)

    async def close(self) -> None:
        for served in list(self.served):
            await served.batcher.close()

    def _miss(self, there: set[Path]) -> None:
        """What has no file any more is served on, and forgotten where it was not served."""
        for path, source in list(self._sources.items()):
            if path in there:
                continue
            if source.served:
                source.error = f"{path.name} is gone; what was in it is served"
            elif source.error != UNLOADED:
                del self._sources[path]
        self._arrange()

    def _name_at(self, path: Path) -> str | None:
        source = self._sources.get(path)
        return source.name if source else None

    def _take(self, found: Found) -> None:
        self._put(found)
        self._arrange()

    def _put(self, found: Found) -> None:
        source = self._sources.setdefault(found.place.path, Source(found.place, found.stamp))
        source.stamp, source.error = found.stamp, found.error
        if found.model is None:
            log.error("the model file is not served, what was there before it is: %s", found.error)
            return
        name, version = found.name, found.version
        others = (other for other in self._sources.values() if other is not source and other.served)
        twin = next((o for o in others if (o.name, o.version) == (name, version)), None)
        if twin is not None:
            source.error = f"{name} version {version} is {twin.place.path.name} already"
            log.error("a model is not served: %s", source.error)
            return
        self._retire(source.served)
        source.served = Served(found.model, self._settings, self._metrics, name, version)

    def _retire(self, served: Served | None) -> None:
        if served is not None:
            retiring = asyncio.create_task(_retire(served))
            self._under_way.add(retiring)
            retiring.add_done_callback(self._under_way.discard)

    def _arrange(self) -> None:
        self.sources = sorted(self._sources.values(), key=lambda s: (s.name, -(s.version or 0)))
        self._metrics.serving([(served.name, served.model.provider) for served in self.served])

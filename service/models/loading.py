"""Reads model files, in a thread and with a limit of time; what is wrong with one is said, not raised."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.errors import ModelError, UnreadableModel
from service.models.discovery import FileSignature, ModelLocation, places, stamp_of
from service.models.session import Model
from service.observability.logs import log
from service.settings import Settings

Load = Callable[[Path], Model]

LOAD_TIMEOUT_S: Final = 120.0  # the largest network of ours takes 2 s from a fast disk


@dataclass(frozen=True)
class LoadResult:
    """A place that was read; an error instead of a model where the file cannot be used. `stamp` is None
    where the file as it is may be usable later, because the disk or the rights were in the way.
    """

    place: ModelLocation
    stamp: FileSignature | None
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


def read(place: ModelLocation, load: Load) -> LoadResult:
    """Loads the file. What is wrong with it is said, not raised."""
    stamp = stamp_of(place.path)
    if place.error is not None:
        return LoadResult(place, stamp, None, place.error)
    try:
        model = load(place.path)
        if _written_since(place.path, stamp):
            raise ModelError(f"{place.path.name} was written to while it was read; replace it in one step")
        return LoadResult(place, stamp, model, None)
    except UnreadableModel as error:
        return LoadResult(place, None, None, str(error))
    except ModelError as error:
        return LoadResult(place, stamp, None, str(error))
    except Exception:  # our own bug, or no memory: the other models are served all the same
        log.exception("%s cannot be loaded", place.path.name)
        return LoadResult(place, stamp, None, f"{place.path.name} cannot be loaded; the log says why")


def read_all(settings: Settings, load: Load) -> list[LoadResult]:
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
    return found


def _written_since(path: Path, stamp: FileSignature | None) -> bool:
    """Into the file itself: another one in its place, or none, is no harm to what was read."""
    now = stamp_of(path)
    return now is not None and stamp is not None and now != stamp and now[2] == stamp[2]


class Loader:
    """Reads in a thread and waits LOAD_TIMEOUT_S for it: what hangs holds up no other model."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.hanging: set[Path] = set()  # files that a thread has been reading for too long

    async def read(self, place: ModelLocation) -> LoadResult:
        """Read the file. A thread that hangs goes on, because nothing can end it; there is never a second
        one for the same file.
        """
        if place.path not in self.hanging:
            reading = asyncio.create_task(asyncio.to_thread(read, place, self._load))
            done, _pending = await asyncio.wait([reading], timeout=LOAD_TIMEOUT_S)
            if done:
                return reading.result()
            self.hanging.add(place.path)
            reading.add_done_callback(lambda _task: self.hanging.discard(place.path))
        error = f"{place.path.name} takes more than {LOAD_TIMEOUT_S:g} s to load; see if its disk answers"
        return LoadResult(place, None, None, error)

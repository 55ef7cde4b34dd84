"""Load model files in threads, with a time limit; an error goes into the result, not up."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.errors import ModelError, UnreadableModel
from service.models.discovery import FileSignature, ModelLocation, file_signature, model_locations
from service.models.session import Model
from service.observability.logs import log
from service.settings import Settings

Load = Callable[[Path], Model]

LOAD_TIMEOUT_S: Final = 120.0  # our largest network takes 2 s from a fast disk


@dataclass(frozen=True)
class LoadResult:
    """The model that was read from a location, or the error why there is none.

    `signature` is None if the unchanged file may be usable later, because the disk or the permissions
    prevented reading it.
    """

    location: ModelLocation
    signature: FileSignature | None
    model: Model | None
    error: str | None

    @property
    def name(self) -> str:
        """The model's name: the path's, else the manifest's."""
        assert self.model is not None
        return self.location.name or self.model.manifest.name

    @property
    def version(self) -> int:
        assert self.model is not None
        return self.location.version or self.model.manifest.version


def read(location: ModelLocation, load: Load) -> LoadResult:
    """Load the file; an error with it is in the result and is not raised."""
    signature = file_signature(location.path)
    if location.error is not None:
        return LoadResult(location, signature, None, location.error)
    try:
        model = load(location.path)
        if _written_since(location.path, signature):
            raise ModelError(
                f"{location.path.name} was written to while it was read; replace it in one step"
            )
        return LoadResult(location, signature, model, None)
    except UnreadableModel as error:
        return LoadResult(location, None, None, str(error))
    except ModelError as error:
        return LoadResult(location, signature, None, str(error))
    except Exception:  # our own bug, or no memory: the other models are still served
        log.exception("%s cannot be loaded", location.path.name)
        return LoadResult(
            location, signature, None, f"{location.path.name} cannot be loaded; the log says why"
        )


def read_all(settings: Settings, load: Load) -> list[LoadResult]:
    """Read every model. Raises ModelError if there is none to serve."""
    results = [read(location, load) for location in model_locations(settings)]
    errors = [result.error for result in results if result.error]
    if not results:
        raise ModelError(
            f"no NAME.onnx and no NAME/VERSION/model.onnx in {settings.models.name}; train and export one, "
            "or set MODEL to a file"
        )
    if len(errors) == len(results):
        raise ModelError("; ".join(errors))
    return results


def _written_since(path: Path, signature: FileSignature | None) -> bool:
    """Whether the file itself was written to; replacing or removing it does not affect what was read."""
    now = file_signature(path)
    return now is not None and signature is not None and now != signature and now[2] == signature[2]


class Loader:
    """Read files in threads, for LOAD_TIMEOUT_S at most, so that a hanging disk delays no other model."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.hanging: set[Path] = set()  # files that a thread has been reading for too long

    async def read(self, location: ModelLocation) -> LoadResult:
        """Read the file. A thread that hangs cannot be ended; no second one reads the same file."""
        if location.path not in self.hanging:
            reading = asyncio.create_task(asyncio.to_thread(read, location, self._load))
            done, _pending = await asyncio.wait([reading], timeout=LOAD_TIMEOUT_S)
            if done:
                return reading.result()
            self.hanging.add(location.path)
            reading.add_done_callback(lambda _task: self.hanging.discard(location.path))
        error = f"{location.path.name} takes more than {LOAD_TIMEOUT_S:g} s to load; check its disk"
        return LoadResult(location, None, None, error)

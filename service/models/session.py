"""A model file in ONNX Runtime: the provider, the manifest, and run(batch)."""

import errno
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.manifest import METADATA_KEY, Manifest, ManifestError
from contract.preprocess import Pixels
from service.errors import ModelError, UnreadableModel
from service.files import read_file
from service.models import cuda
from service.models import onnx_cost as onnxcost
from service.models import onnx_file as onnxfile
from service.models.cuda import Buckets, GpuOptions, NoGpu, first_line
from service.models.file_kind import folder_refusal, refusal
from service.models.filters import conv1_weights
from service.models.onnx_wire import MAX_BYTES, OnnxError
from service.observability.logs import log

Row = dict[str, NDArray[np.float32]]  # output -> what it says of one image

CPU: Final = "CPUExecutionProvider"
SMALL: Final = 32_000_000  # bytes of a model file
MAX_OF_A_CARD: Final = 100_000  # bytes
WORTH: Final = 8  # images of a batch on the CPU; beyond it an image costs the same (benchmarks/limit.py)


class Session(Protocol):
    """ONNX Runtime's interface, as far as it is used."""

    def run(self, outputs: Sequence[str], feed: Mapping[str, Pixels]) -> Sequence[NDArray[np.float32]]: ...


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model. `provider` is the one that the session really uses; `sha256` is the file's. Batches
    of `target_batch_size` images are worth waiting for; `whole` is the same network on every core, for a
    batch beside which there is nothing else to do, if it gains by that. `kernels` are conv1's
    (N, 3, 11, 11), if it has any.
    """

    manifest: Manifest
    sha256: str
    card: str | None
    provider: str
    session: Session
    target_batch_size: int = 1
    whole: Session | None = None
    kernels: NDArray[np.float32] | None = None

    def run(
        self, batch: Sequence[Pixels], outputs: Sequence[str] = ("probabilities",), exclusive: bool = False
    ) -> list[Row]:
        """Crops (224, 224, 3) uint8 -> for each what `outputs` say of it, such as its full softmax
        (classes,). `exclusive`: no other request is in flight. Raises FloatingPointError, and on a GPU
        WorkerLost.
        """
        session = self.whole if exclusive and self.whole is not None else self.session
        found = session.run(outputs, {"images": np.stack(batch)})
        for name, values in zip(outputs, found, strict=True):
            if not np.isfinite(values).all():
                raise FloatingPointError(f"the network returned NaN or infinity in {name}")
            assert len(values) == len(batch), f"{name} has {len(values)} rows for {len(batch)} images"
        return [dict(zip(outputs, rows, strict=True)) for rows in zip(*found, strict=True)]


def load_model(
    path: Path,
    device: str,
    threads: int,
    gpu: GpuOptions = cuda.DEFAULTS,
    runtime: Any = ort,
    small: int = SMALL,
    has_gpu: Callable[[], bool] = cuda.has_gpu,
) -> Model:
    """`device` is auto, cpu or cuda; the model has run when it is returned. `runtime` is ONNX Runtime.
    With auto, a GPU that is there and cannot be used is warned of. Raises ModelError.

    On the CPU a batch is run by one thread, beside others: threads that wait for each other at the end of
    every layer do less. Only what is alone gains by them, and only where the network is large: one of
    `small` bytes or more is loaded twice, the second time for all threads. The file's size decides, not a
    trial: what is measured at the start depends on what else the machine is doing then.
    """
    _refuse_two_wheels()
    data = _read(path)
    log.info("loading and warming %s", path.name)
    try:
        file = onnxfile.read(data)
        if METADATA_KEY not in file.metadata:
            raise OnnxError("is an ONNX model of another make: it has no manifest")
        onnxfile.check(file)
        onnxcost.check(file)
        kernels = conv1_weights(file)
    except OnnxError as error:
        raise ModelError(f"{path.name} {refusal(data, str(error))}") from None
    try:
        manifest = Manifest.from_json(file.metadata[METADATA_KEY])
    except ManifestError as error:
        raise ModelError(f"{path.name}: {error}") from None
    if missing := [tensor.name for tensor in manifest.outputs if tensor.name not in file.outputs]:
        raise ModelError(f"{path.name}: its manifest lists the output {missing[0][:40]!r}, which it lacks")
    sha256, card = hashlib.sha256(data).hexdigest(), _card(path)

    made = partial(Model, manifest, sha256, card, kernels=kernels)

    def on_cpu(threads: int) -> Any:
        try:
            session = runtime.InferenceSession(data, _options(threads), providers=[CPU])
        except Exception as error:  # ORT's exceptions share no base class of their own
            raise ModelError(f"{path.name} cannot be loaded: {first_line(error)}") from error
        _forget_bytes(session)
        return session

    why_not = None
    if device != "cpu":
        try:
            session = cuda.open_session(data, _options(threads), gpu, runtime)
            _forget_bytes(session)
            buckets = Buckets(session, manifest.recipe.crop, gpu.max_batch, runtime)
            return _warmed(made(cuda.PROVIDER, buckets), path.name, buckets.sizes)
        except NoGpu as error:
            why_not = str(error)
        except (
            Exception
        ) as error:  # what CUDA lacks, such as memory; the file's own faults show again below
            why_not = f"the GPU cannot be used: {first_line(_root(error))}"
        if device == "cuda":
            raise ModelError(f"DEVICE=cuda, but {why_not}; use DEVICE=auto or cpu for the CPU")
    session = on_cpu(1)
    whole = on_cpu(threads) if threads > 1 and len(data) >= small else None
    model = _warmed(made(session.get_providers()[0], session, WORTH, whole), path.name, [1])
    if why_not is not None and has_gpu():
        log.warning("serving on the CPU: %s", why_not)
    return model


def _root(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root(error.__cause__)


def _read(path: Path) -> bytes:
    try:
        return read_file(path, MAX_BYTES)
    except FileNotFoundError:
        raise UnreadableModel(
            f"no model file {path.name}; set MODEL to one, or train and export it"
        ) from None
    except OSError as error:
        if path.is_dir():
            raise ModelError(f"{path.name} {folder_refusal(path)}") from None
        raise UnreadableModel(f"{path.name} cannot be read: {error.strerror}") from None


def _card(path: Path) -> str | None:
    """Read the model card beside a model file; None where there is none that is a plain file."""
    card = path.with_suffix(".md")
    try:
        # Through a link, whoever may write into MODELS would have any file of the server's shown.
        return read_file(card, MAX_OF_A_CARD, links=False).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        log.warning("the card %s is not shown: %s", card.name, reason)
        return None


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; warnings speak of optimisations
    # Threads that wait in a loop for work take the cores from those that decode: p99 alone was twice p50.
    # Those that never do are late for each layer: a 244 MB network alone took 1.09 times as long.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    # What was checked is what is loaded: bytes can be read as ONNX and look like ORT's own format as well.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _forget_bytes(session: Any) -> None:
    """The Python wrapper keeps the file for its fallback to other providers, which is not used here."""
    session._model_bytes = None


def _warmed(model: Model, name: str, sizes: Sequence[int]) -> Model:
    """After real forward passes on blank images, the largest batch first; nobody is told before that it is
    ready. Raises ModelError.
    """
    side = model.manifest.recipe.crop
    try:
        for size in sorted(sizes, reverse=True):
            for exclusive in (False, True) if model.whole is not None else (False,):
                row, *_ = model.run([np.zeros((side, side, 3), np.uint8)] * size, exclusive=exclusive)
    except Exception as error:  # whatever ORT raises when inputs, outputs or kernels do not fit
        raise ModelError(f"{name} does not run: {first_line(error)}") from error
    found = len(row["probabilities"])
    if found != len(model.manifest.classes):
        raise ModelError(f"{name} has {found} outputs for {len(model.manifest.classes)} classes")
    return model


def _refuse_two_wheels() -> None:
    """The CPU and the GPU wheel install the same files, the later one over the earlier."""
    found = {d.metadata["Name"].lower() for d in metadata.distributions() if d.metadata["Name"]}
    if {"onnxruntime", "onnxruntime-gpu"} <= found:
        raise ModelError(
            "onnxruntime and onnxruntime-gpu are both installed and shadow each other; "
            "uninstall both, then install one"
        )


def gpu_memory_used(providers: Iterable[str]) -> int:
    """Bytes of the GPU's memory, by whomever, if one of the providers is CUDA's; else 0."""
    return (cuda.memory_used(_cuda_library()) or 0) if cuda.PROVIDER in providers else 0


@lru_cache(maxsize=1)
def _cuda_library() -> Any:
    return cuda.cuda_library(ort)

"""Check a model file, load it into ONNX Runtime on the CPU or a GPU, and run batches in it."""

import errno
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.fields import ManifestError
from contract.manifest import METADATA_KEY, Manifest
from contract.trust import UNFAMILIARITY
from service.device_crops import Crops
from service.errors import ModelError, UnreadableModel, short_message
from service.files import read_file
from service.models import cuda, onnx_cost, onnx_file
from service.models.cuda import GpuOptions, NoGpu
from service.models.cuda_session import GpuSession
from service.models.file_kind import folder_refusal, refusal
from service.models.filters import conv1_weights
from service.models.onnx_wire import MAX_BYTES, OnnxError
from service.observability.logs import log

Outputs = dict[str, NDArray[np.float32]]  # by name, each with a row per image

CPU: Final = "CPUExecutionProvider"
LARGE_MODEL_BYTES: Final = 32_000_000  # size of a model file from which every core runs a single batch
MAX_CARD_BYTES: Final = 100_000
# In larger batches on the CPU an image costs as much (benchmarks/limit.py).
CPU_TARGET_BATCH_SIZE: Final = 8


class Session(Protocol):
    """Run images, in parts (N, S, S, 3) uint8; return each of `outputs` with a row per image."""

    def run(self, outputs: Sequence[str], parts: Sequence[Crops]) -> Sequence[NDArray[np.float32]]: ...


class CpuSession:
    """A session on the CPU; several threads may run it at once."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, outputs: Sequence[str], parts: Sequence[Crops]) -> Sequence[NDArray[np.float32]]:
        arrays = [np.asarray(part) for part in parts]  # from a GPU, if only the models have fallen back
        images = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        results: Sequence[NDArray[np.float32]] = self._session.run(outputs, {"images": images})
        return results


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    `provider` is the one that the session really uses; `sha256` is the file's. The cost per image falls up
    to batches of `target_batch_size`. `whole` is a session of the same network that uses every core, for a
    batch while nothing else is in flight; None if the network is too small to gain by it. `kernels` are
    conv1's weights (N, 3, 11, 11), if it has that layer.
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
        self, parts: Sequence[Crops], outputs: Sequence[str] = ("probabilities",), exclusive: bool = False
    ) -> Outputs:
        """Run crops, in parts (N, 224, 224, 3) uint8; return the `outputs`, such as their softmax.

        `exclusive` means that nothing else is in flight. Raises FloatingPointError for outputs that are NaN
        or infinite, and on a GPU WorkerLost.
        """
        session = self.whole if exclusive and self.whole is not None else self.session
        results = session.run(outputs, parts)
        images = sum(map(len, parts))
        for name, values in zip(outputs, results, strict=True):
            if not np.isfinite(values).all():
                raise FloatingPointError(f"the network returned NaN or infinity in {name}")
            assert len(values) == images, f"{name} has {len(values)} rows for {images} images"
        return dict(zip(outputs, results, strict=True))

    @property
    def answer_outputs(self) -> tuple[str, ...]:
        """The outputs that an answer of /predict is made from."""
        return _answer_outputs(self.manifest)

    @property
    def gpu_memory_used(self) -> int:
        """Bytes of GPU memory that all processes use; 0 on the CPU, or if CUDA does not answer."""
        return self.session.memory_used if isinstance(self.session, GpuSession) else 0


def load_model(
    path: Path,
    device: str,
    threads: int,
    gpu: GpuOptions = cuda.DEFAULTS,
    runtime: Any = ort,
    large_bytes: int = LARGE_MODEL_BYTES,
    has_gpu: Callable[[], bool] = cuda.has_gpu,
    open_library: Callable[[Any], Any] = cuda.open_library,
) -> Model:
    """Load, check and warm a model file. Raises ModelError.

    `device` is auto, cpu or cuda; with auto, a warning is logged if there is a GPU that cannot be used.
    `runtime` is the module onnxruntime, `open_library` opens CUDA's runtime library.

    On the CPU one thread runs a batch, beside other threads with theirs: threads that wait for each other
    after every layer do less in total. They gain only while nothing else is in flight, and only if the
    network is large: a file of `large_bytes` or more is loaded a second time, for all threads. The size
    decides and not a measurement, which at the start would depend on the machine's other load.
    """
    _refuse_two_wheels()
    data = _read(path)
    log.info("loading and warming %s", path.name)
    try:
        file = onnx_file.read(data)
        if METADATA_KEY not in file.metadata:
            raise OnnxError("is an ONNX model without a manifest, so it was not exported by this project")
        onnx_file.check(file)
        onnx_cost.check(file)
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

    make_model = partial(Model, manifest, sha256, card, kernels=kernels)

    def on_cpu(threads: int) -> CpuSession:
        try:
            session = runtime.InferenceSession(data, _options(threads), providers=[CPU])
        except Exception as error:  # ORT's exceptions share no base class of their own
            raise ModelError(f"{path.name} cannot be loaded: {short_message(error)}") from error
        _forget_bytes(session)
        return CpuSession(session)

    def on_gpu() -> Any:
        # No node runs on the CPU, so its threads would do nothing.
        session = cuda.open_session(data, _options(1), gpu.provider(manifest.precision), runtime)
        _forget_bytes(session)
        return session

    gpu_error = None
    if device != "cpu":
        try:
            outputs, side = _answer_outputs(manifest), manifest.recipe.crop
            session = GpuSession(on_gpu, open_library, outputs, side, gpu.max_batch, runtime)
            return _warm(make_model(cuda.PROVIDER, session), path.name)
        except NoGpu as error:
            gpu_error = str(error)
        except Exception as error:  # CUDA lacks something, such as memory
            if isinstance(_root(error), ModelError | FloatingPointError):  # a fault of the file
                raise
            gpu_error = f"the GPU cannot be used: {short_message(_root(error))}"
        if device == "cuda":
            raise ModelError(f"DEVICE=cuda, but {gpu_error}; use DEVICE=auto or cpu for the CPU")
    whole = on_cpu(threads) if threads > 1 and len(data) >= large_bytes else None
    model = _warm(make_model(CPU, on_cpu(1), CPU_TARGET_BATCH_SIZE, whole), path.name)
    if gpu_error is not None and has_gpu():
        log.warning("serving on the CPU: %s", gpu_error)
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
    """Read the model card beside a model file; None if there is none that is a regular file."""
    card = path.with_suffix(".md")
    try:
        # Through a link, anyone who may write to MODELS could publish any file of the server.
        return read_file(card, MAX_CARD_BYTES, links=False).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        log.warning("the card %s is not shown: %s", card.name, reason)
        return None


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; warnings are about optimisations
    # Threads that spin while they wait take the cores from those that decode: p99 of single requests was
    # twice p50. Without any spinning they start each layer late: a 244 MB network took 1.09 times as long.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    # Load as ONNX, because that is what was checked: a file can be valid ONNX and look like ORT's format.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _forget_bytes(session: Any) -> None:
    """Free the file's bytes, which the Python wrapper keeps for a fallback that is not used here."""
    session._model_bytes = None


def _answer_outputs(manifest: Manifest) -> tuple[str, ...]:
    if manifest.trust is None or manifest.trust.familiarity is None:
        return ("probabilities",)
    return ("probabilities", UNFAMILIARITY)


def _warm(model: Model, name: str) -> Model:
    """Compute the answer to a blank image. Raises ModelError.

    The model is served only after that, so that no request pays for the first pass.
    """
    side = model.manifest.recipe.crop
    blank = np.zeros((1, side, side, 3), np.uint8)
    try:
        for exclusive in (False, True) if model.whole is not None else (False,):
            outputs = model.run([blank], model.answer_outputs, exclusive)
    except Exception as error:  # ORT's errors when inputs, outputs or kernels do not fit
        raise ModelError(f"{name} does not run: {short_message(error)}") from error
    row, classes = outputs["probabilities"], len(model.manifest.classes)
    if row.shape != (1, classes):
        raise ModelError(f"{name} has {row.size} outputs for {classes} classes")
    if UNFAMILIARITY in outputs and outputs[UNFAMILIARITY].shape != (1,):
        shape = outputs[UNFAMILIARITY].shape
        raise ModelError(f"{name} has {UNFAMILIARITY} of shape {shape} for an image; it must be (1,)")
    return model


def _refuse_two_wheels() -> None:
    """Raise ModelError if both wheels of ONNX Runtime are installed: they overwrite each other's files."""
    installed = {d.metadata["Name"].lower() for d in metadata.distributions() if d.metadata["Name"]}
    if {"onnxruntime", "onnxruntime-gpu"} <= installed:
        raise ModelError(
            "onnxruntime and onnxruntime-gpu are both installed and shadow each other; "
            "uninstall both, then install one"
        )

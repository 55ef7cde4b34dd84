"""A model file in ONNX Runtime: the provider, the manifest, and run(batch)."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from contract.manifest import METADATA_KEY, Manifest, ManifestError
from contract.preprocess import Pixels
from service.logs import log

Row = dict[str, NDArray[np.float32]]  # output -> what it says of one image

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"
TRIAL_BATCH: Final = 8


class ModelError(RuntimeError):
    """The model cannot be loaded, or not on the device asked for; the message says what to do."""


@dataclass(frozen=True)
class Model:
    """A loaded model. `provider` is the one that the session really uses; `sha256` is the file's; `lanes`
    is how many threads are to call `run` at a time.
    """

    manifest: Manifest
    sha256: str
    card: str | None
    provider: str
    session: ort.InferenceSession
    lanes: int = 1

    def run(self, batch: Sequence[Pixels], outputs: Sequence[str] = ("probabilities",)) -> list[Row]:
        """Crops (224, 224, 3) uint8 -> for each what `outputs` say of it, such as its full softmax
        (classes,). Raises FloatingPointError.
        """
        found = self.session.run(outputs, {"images": np.stack(batch)})
        for name, values in zip(outputs, found, strict=True):
            if not np.isfinite(values).all():
                raise FloatingPointError(f"the network returned NaN or infinity in {name}")
            assert len(values) == len(batch), f"{name} has {len(values)} rows for {len(batch)} images"
        return [dict(zip(outputs, rows, strict=True)) for rows in zip(*found, strict=True)]


def load_model(path: Path, device: str, threads: int) -> Model:
    """`device` is auto, cpu or cuda; the model has run when it is returned. Raises ModelError.

    On the CPU it is tried out both ways: all threads on one batch, or a lane for each. Small networks lose
    more to the threads' waiting for each other than an image that is alone gains by them.
    """
    _refuse_two_wheels()
    if not path.is_file():
        raise ModelError(f"no model file {path.name}; set MODEL to one, or train and export it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror}") from None
    session = _open(data, threads, device, path.name)
    if device == "auto" and session.get_providers()[0] != CUDA:
        log.warning("serving on the CPU: %s", _why_no_cuda())
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ModelError(f"{path.name} has no manifest; export it with `python -m training export`")
    try:
        manifest = Manifest.from_json(text)
    except ManifestError as error:
        raise ModelError(f"{path.name}: {error}") from None
    card = path.with_suffix(".md")
    model = Model(
        manifest=manifest,
        sha256=hashlib.sha256(data).hexdigest(),
        card=card.read_text("utf-8", errors="replace") if card.is_file() else None,
        provider=session.get_providers()[0],
        session=session,
    )
    _warm_up(model, path.name)
    if model.provider != CPU or threads == 1:
        return model
    narrow = replace(model, session=_open(data, 1, "cpu", path.name), lanes=threads)
    return narrow if _gain(model, narrow) > _cost(model, narrow) else model


def _gain(wide: Model, narrow: Model) -> float:
    """How much larger the rate is when every thread runs batches of its own."""
    return narrow.lanes * _seconds(wide, TRIAL_BATCH) / _seconds(narrow, TRIAL_BATCH)


def _cost(wide: Model, narrow: Model) -> float:
    """How much longer an image that is alone then takes."""
    return _seconds(narrow, 1) / _seconds(wide, 1)


def _seconds(model: Model, size: int) -> float:
    """The best of three runs, after one that allocates."""
    side, times = model.manifest.recipe.crop, []
    for _run in range(4):
        started = time.perf_counter()
        model.run([np.zeros((side, side, 3), np.uint8)] * size)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _warm_up(model: Model, name: str) -> None:
    """A real forward pass on a blank image, before anybody is told that the model is ready."""
    side = model.manifest.recipe.crop
    try:
        (row,) = model.run([np.zeros((side, side, 3), np.uint8)])
    except Exception as error:  # whatever ORT raises when inputs, outputs or kernels do not fit
        raise ModelError(f"{name} does not run: {str(error).splitlines()[0][:300]}") from error
    found = len(row["probabilities"])
    if found != len(model.manifest.classes):
        raise ModelError(f"{name} has {found} outputs for {len(model.manifest.classes)} classes")


def _open(data: bytes, threads: int, device: str, name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; warnings speak of optimisations
    # Threads that wait in a loop for work take the cores from those that decode: p99 alone was twice p50.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [CPU]
    if device != "cpu" and CUDA in ort.get_available_providers():
        ort.preload_dlls()  # CUDA and cuDNN from their wheels
        providers = [CUDA, CPU]
    try:
        session = ort.InferenceSession(data, options, providers=providers)
    except Exception as error:  # ORT's exceptions share no base class of their own
        raise ModelError(f"{name} cannot be loaded: {str(error).splitlines()[0][:300]}") from error
    if device == "cuda" and session.get_providers()[0] != CUDA:
        raise ModelError(f"DEVICE=cuda, but {_why_no_cuda()}; use DEVICE=auto or cpu for the CPU")
    return session


def _why_no_cuda() -> str:
    if CUDA not in ort.get_available_providers():
        return "this ONNX Runtime has no CUDA provider (the extra `gpu` has; it takes x86-64)"
    return "no CUDA session could be made (is there an NVIDIA GPU with a driver of 580 or newer?)"


def _refuse_two_wheels() -> None:
    """The CPU and the GPU wheel install the same files, the later one over the earlier."""
    found = {d.metadata["Name"].lower() for d in metadata.distributions() if d.metadata["Name"]}
    if {"onnxruntime", "onnxruntime-gpu"} <= found:
        raise ModelError(
            "onnxruntime and onnxruntime-gpu are both installed and shadow each other; "
            "uninstall both, then install one"
        )

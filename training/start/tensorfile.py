"""Read named tensors from other programs' files: torch pickles and safetensors, also nested ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from training.errors import CheckpointError
from training.messages import abbreviated
from training.run.checkpoint import read_record

SUFFIX: Final = ".safetensors"
# The keys under which training programs store the network's state dict.
_NESTS: Final = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
_LAYERS: Final = {"features", "classifier", *(f"conv{n}" for n in range(1, 6)), "fc6", "fc7", "fc8"}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a .safetensors or torch file by its name. Raises CheckpointError."""
    if path.suffix.lower() == SUFFIX:
        return plain(read_safetensors(path)[0], path)
    return plain(read_record(path), path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file -> its tensors and its metadata. Raises CheckpointError."""
    try:
        # Read, not mapped: the pages of a file that is replaced meanwhile would change or be lost.
        tensors = load_tensors(path.read_bytes())
        with safetensors.safe_open(path, framework="pt") as file:
            return tensors, dict(file.metadata() or {})
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # SafetensorError, and torch's errors for bad dtypes and shapes
        raise CheckpointError(f"{path} is not a valid safetensors file: {abbreviated(error)}") from error


def plain(record: Any, path: Path) -> dict[str, Tensor]:
    """Extract the state dict from a nested record, and remove the common prefix of its names.

    Raises CheckpointError if it holds anything but floating-point tensors.
    """
    while isinstance(record, Mapping):
        inner = next((record[key] for key in _NESTS if isinstance(record.get(key), Mapping)), None)
        if inner is None:
            break
        record = inner
    if not isinstance(record, Mapping):
        raise CheckpointError(f"{path} holds {type(record).__name__}, not a state dict")
    tensors = {name: value for name, value in record.items() if isinstance(value, Tensor)}
    wrong = [name for name in record if name not in tensors or not isinstance(name, str)]
    if wrong or not tensors:
        problem = f"{abbreviated(repr(wrong[0]), 60)} is not a tensor" if wrong else "it is empty"
        raise CheckpointError(f"{path} is not a state dict: {problem}")
    for name, value in tensors.items():
        if not value.is_floating_point() or value.layout != torch.strided or not value.dim():
            kind = f"{value.dtype}, {value.dim()} dimensions"
            raise CheckpointError(f"{path}: {abbreviated(name, 60)} holds no weights, but {kind}")
    return _without_prefix(tensors)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes such as "module." or "_orig_mod." while all names begin with them."""
    while len(first := {name.split(".")[0] for name in tensors}) == 1 and not first & _LAYERS:
        if not all("." in name for name in tensors):
            break
        tensors = {name.split(".", 1)[1]: value for name, value in tensors.items()}
    return tensors

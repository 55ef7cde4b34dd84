"""What a model file says of the photographs that its accuracy was measured on: their digests, no names."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from training.errors import DataError

KEY: Final = "measured_on"  # of the manifest's `training`
TRAINED_BEFORE: Final = (
    "trained_before"  # beside it, where validation may hold what an earlier run has seen
)
MAX_DIGESTS: Final = 20_000  # that are listed, 11 bytes each; of more, there is one of all
# What photographs are to a run.
VALIDATION: Final = "validation"
OTHERS: Final = "photographs not trained on"
TRAINING: Final = "training photographs"
UNKNOWN: Final = "photographs that it may have been trained on"
PARTLY: Final = "partly training photographs"
PLAIN: Final = {VALIDATION, OTHERS}  # a number on others is never given without saying so


def kind_said(data: str) -> str:
    """-> the kind in the name of the data that a model file gives its accuracy on."""
    kinds = (OTHERS, TRAINING, UNKNOWN, PARTLY)
    return next((kind for kind in kinds if data.endswith(f"({kind})")), VALIDATION)


def measured_on(digests: Tensor, notes: Sequence[str] = ()) -> dict[str, Any]:
    """-> the record. `notes` say what differs from the photographs that the run held out."""
    said = {"photographs": len(digests), "notes": list(notes)}
    if len(digests) > MAX_DIGESTS:
        return {**said, "digest_of_all": digest_of_all(digests)}
    return {**said, "digests": b64encode(_packed(digests)).decode()}


def read_measured_on(training: Mapping[str, Any]) -> tuple[Tensor | None, str | None]:
    """-> the digests, else one of all of them, as the record has it. Raises DataError if it is damaged."""
    said = training.get(KEY)
    if said is None:
        return None, None
    try:
        if "digest_of_all" in said:
            return None, str(said["digest_of_all"])
        packed = b64decode(said["digests"], validate=True)
        digests = torch.from_numpy(np.frombuffer(packed, "<i8").astype(np.int64))
        if len(digests) != said["photographs"]:
            raise ValueError(f"{len(digests)} digests of {said['photographs']} photographs")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the manifest's training.{KEY} is damaged: {error}") from None
    return digests, None


def digest_of_all(digests: Tensor) -> str:
    """Identify a set of photographs, whatever their order."""
    return b64encode(hashlib.blake2b(_packed(digests), digest_size=16).digest()).decode()


def _packed(digests: Tensor) -> bytes:
    return digests.sort().values.numpy().astype("<i8").tobytes()

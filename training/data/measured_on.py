"""Store in a model file the digests of the photographs its accuracy was measured on."""

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
    "trained_before"  # beside KEY, if validation may include photographs of an earlier run
)
MAX_DIGESTS: Final = 20_000  # listed at 11 bytes each; for more photographs, one digest of all
# How photographs relate to the training of a run.
VALIDATION: Final = "validation"
OTHERS: Final = "photographs not trained on"
TRAINING: Final = "training photographs"
UNKNOWN: Final = "photographs that it may have been trained on"
PARTLY: Final = "partly training photographs"
PLAIN: Final = {VALIDATION, OTHERS}  # accuracy on any other kind is always labelled with it


def kind_in(data: str) -> str:
    """Return the kind of photographs at the end of a metric's `data`, such as "flowers (validation)"."""
    kinds = (OTHERS, TRAINING, UNKNOWN, PARTLY)
    return next((kind for kind in kinds if data.endswith(f"({kind})")), VALIDATION)


def measured_on(digests: Tensor, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Make the record of the digests (N,); `notes` say what differs from the run's held-out photographs."""
    record = {"photographs": len(digests), "notes": list(notes)}
    if len(digests) > MAX_DIGESTS:
        return {**record, "digest_of_all": digest_of_all(digests)}
    return {**record, "digests": b64encode(_packed(digests)).decode()}


def read_measured_on(training: Mapping[str, Any]) -> tuple[Tensor | None, str | None]:
    """Read the record -> the digests or None, and the digest of all or None.

    Raises DataError if it is damaged.
    """
    record = training.get(KEY)
    if record is None:
        return None, None
    try:
        if "digest_of_all" in record:
            return None, str(record["digest_of_all"])
        packed = b64decode(record["digests"], validate=True)
        digests = torch.from_numpy(np.frombuffer(packed, "<i8").astype(np.int64))
        if len(digests) != record["photographs"]:
            raise ValueError(f"{len(digests)} digests of {record['photographs']} photographs")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the manifest's training.{KEY} is damaged: {error}") from None
    return digests, None


def digest_of_all(digests: Tensor) -> str:
    """Digest a set of photographs, independently of their order."""
    return b64encode(hashlib.blake2b(_packed(digests), digest_size=16).digest()).decode()


def _packed(digests: Tensor) -> bytes:
    return digests.sort().values.numpy().astype("<i8").tobytes()

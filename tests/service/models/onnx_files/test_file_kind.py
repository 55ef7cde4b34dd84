"""Tests of files that are no models: the error says what they are and what to do."""

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from service.errors import ModelError
from service.models.session import load_model
from tests.support.serving.images import encoded, noise

EXPORT = r"; make one with `scripts/training export` or `import`, no other is served$"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.onnx", b"\x08\x07")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return file.getvalue()


def checkpoint(new: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def safetensors() -> bytes:
    header = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + b"\0\0\0\0"


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.zeros(3))
    return file.getvalue()


def foreign_onnx() -> bytes:
    """A model as torch.onnx.export writes it: without a manifest, of an opset that is not served."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    return bytes(model.SerializeToString())


CASES = {
    "jpeg": (encoded(noise(1)), "is a JPEG picture and no model; to ask about it: scripts/predict FILE$"),
    "png": (encoded(noise(1), "PNG"), "is a PNG picture"),
    "webp": (encoded(noise(1), "WEBP"), "is a WEBP picture"),
    "video": (b"\0\0\0\x18ftypmp42\0\0\0\0", "is a video or a picture"),
    "empty": (b"", "is empty; export or copy it again$"),
    "checkpoint": (
        checkpoint(),
        "is a checkpoint; export it: scripts/training export CHECKPOINT --out models/NAME",
    ),
    "old_checkpoint": (checkpoint(new=False), "is a Python pickle"),
    "pickle": (pickle.dumps({"a": 1}), "is a Python pickle"),
    "zip": (zipped(), "is an archive; if there is an .onnx file in it, unpack"),
    "tar": (tarred(), "is an archive"),
    "gzip": (gzip.compress(b"model"), "is an archive"),
    "npz": (arrays(), "is an archive"),
    "safetensors": (safetensors(), "is a safetensors file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0\0", "is an HDF5 file"),
    "ort": (b"\x18\0\0\0ORTM\0\0", "is in ONNX Runtime's own format"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a Git LFS pointer and not the file itself, which `git lfs pull` fetches$",
    ),
    "html": (b"\n<!DOCTYPE html>\n<html>", "is a web page"),
    "text": ("# Anemone, Blütenstaub\n".encode(), "is a text file; only ONNX files are served$"),
    "onnx": (
        foreign_onnx(),
        "is an ONNX model without a manifest, so it was not exported by this" + ".*" + EXPORT,
    ),
    "noise": (
        bytes(range(1, 200)),
        "is damaged: .*; copy or export it again, if it is an ONNX file at all$",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_error_names_the_kind_of_file(tmp_path: Path, case: str) -> None:
    data, reason = CASES[case]
    path = tmp_path / "some.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"^some\.onnx {reason}"):
        load_model(path, "cpu", 1)


def test_changed_opset_is_refused(model_file: Path, tmp_path: Path) -> None:
    model = onnx.load(model_file)
    model.opset_import[0].version = 21
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(ModelError, match="is of opset ai.onnx 21; only 17 and 18 are served" + EXPORT):
        load_model(tmp_path / "newer.onnx", "cpu", 1)


def test_truncated_file_is_reported_as_damaged(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(model_file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"is cut off or damaged: .*; copy or export it again"):
        load_model(tmp_path / "cut.onnx", "cpu", 1)


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder, .* MODEL takes a file, MODELS a folder of them"):
        load_model(tmp_path, "cpu", 1)
    (tmp_path / "best.pt").touch()
    with pytest.raises(ModelError, match=r"is a run; export it: scripts/training export RUN --out models/"):
        load_model(tmp_path, "cpu", 1)

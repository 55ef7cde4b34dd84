"""Word the refusal of a model file: what the file is instead, and what to do."""

from pathlib import Path
from typing import Final

from contract.picture import sniff

ARCHIVE: Final = "an archive; if there is an .onnx file in it, unpack and name that"
PICKLE: Final = "a Python pickle, such as old PyTorch checkpoints are; only ONNX files are served"
CHECKPOINT: Final = "a checkpoint; export it: scripts/training export CHECKPOINT --out models/NAME.onnx"
# offset, the bytes there, what kind of file they mark
SIGNATURES: Final = (
    (0, b"PK\x03\x04", ARCHIVE),
    (0, b"\x1f\x8b", ARCHIVE),
    (0, b"BZh", ARCHIVE),
    (0, b"\xfd7zXZ\x00", ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", ARCHIVE),
    (257, b"ustar", ARCHIVE),
    *((0, bytes((0x80, protocol)), PICKLE) for protocol in range(2, 6)),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes; only ONNX files are served"),
    (4, b"ORTM", "in ONNX Runtime's own format; name the .onnx file that it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model; only ONNX files are served"),
    (4, b"ftyp", "a video or a picture; scripts/predict answers about JPEG, PNG and other pictures"),
    (0, b"%PDF-", "a PDF document; only ONNX files are served"),
)
LFS: Final = b"version https://git-lfs.github.com/spec/"
HEAD: Final = 4096  # bytes that are examined
OURS: Final = "make one with `scripts/training export` or `import`, no other is served"
DAMAGED: Final = "copy or export it again, if it is an ONNX file at all"


def refusal(data: bytes, reason: str) -> str:
    """Say why `data` is not served and what to do; the text continues after the file's name."""
    kind = _kind_of(data)
    if kind is not None:
        return f"is {kind}"
    return f"{reason}; {DAMAGED if 'damaged' in reason else OURS}"


def folder_refusal(path: Path) -> str:
    """Say why a folder is not served as a model and what to do."""
    if any((path / name).is_file() for name in ("best.pt", "last.pt")):
        return "is a run; export it: scripts/training export RUN --out models/NAME.onnx"
    return "is a folder, not a regular file; MODEL takes a file, MODELS a folder of them"


def _kind_of(data: bytes) -> str | None:
    """Say what kind of file `data` is and what to do; None if its kind is unknown."""
    if not data:
        return "empty; export or copy it again"
    head = data[:HEAD]
    if picture := sniff(head):
        return f"a {picture} picture and no model; to ask about it: scripts/predict FILE"
    if head.startswith(b"PK\x03\x04") and b"data.pkl" in head:
        return CHECKPOINT
    for at, signature, kind in SIGNATURES:
        if head.startswith(signature, at):
            return kind
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < len(data):
        return "a safetensors file; only ONNX files are served"
    if head.startswith(LFS):
        return "a Git LFS pointer and not the file itself, which `git lfs pull` fetches"
    text = head.decode("utf-8", errors="replace")
    if not all(c.isprintable() or c.isspace() for c in text):
        return None
    if text.lstrip()[:9].lower().startswith(("<!doctype", "<html")):
        return "a web page; what was downloaded is not the file, but a page about it"
    return "a text file; only ONNX files are served"

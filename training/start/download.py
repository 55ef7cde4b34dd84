"""Download a large file with a progress bar; resume after breaks, and check its SHA-256."""

import hashlib
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Final

from tqdm import tqdm

from training.errors import DownloadError

ATTEMPTS: Final = 5  # consecutive attempts without new data
CHUNK: Final = 1 << 20  # bytes
TIMEOUT_S: Final = 30


def download(url: str, target: Path, sha256: str, pause_s: float = 1.0) -> None:
    """Download `url` to `target`, which is written once its SHA-256 is right.

    Until then, the received data is kept beside it with the suffix .partial. After each failed attempt the
    pause grows by `pause_s`. Raises DownloadError.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url!r} is neither a file here nor an http(s) URL")
    partial = target.with_name(f"{target.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    resumed = partial.is_file()
    failures = 0
    while failures < ATTEMPTS:
        before = partial.stat().st_size if partial.is_file() else 0
        try:
            if _fetch(url, partial, before):
                break
            problem = "the connection broke off"
        except (urllib.error.URLError, HTTPException, OSError) as error:
            problem = str(getattr(error, "reason", error))
        grown = partial.is_file() and partial.stat().st_size > before
        failures = 0 if grown else failures + 1
        time.sleep(failures * pause_s)
    else:
        raise DownloadError(
            f"{url} cannot be fetched: {problem}; fetch it elsewhere and put it at {target}, or try again: "
            "the received data is kept"
        )
    actual = digest(partial)
    if actual != sha256:
        partial.unlink()
        if resumed:  # the old data was damaged, or of another file
            download(url, target, sha256, pause_s)
            return
        raise DownloadError(
            f"{url} has SHA-256 {actual}, not {sha256}: it is another file, and was removed"
        )
    partial.replace(target)


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, partial: Path, start: int) -> bool:
    """Append the bytes from `start` on -> whether the file is complete."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the file ends at `start`
            return True
        raise
    with response, partial.open("ab" if response.status == 206 else "wb") as file:
        length = response.headers["Content-Length"]
        # Without a length, the end of the stream counts as the end; the SHA-256 decides.
        total = file.tell() + int(length) if length else None
        with tqdm(
            desc=partial.stem, total=total, initial=file.tell(), unit="B", unit_scale=True, disable=None
        ) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        return total is None or file.tell() == total

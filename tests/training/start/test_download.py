"""Downloads over a real socket: breaks, resumption, wrong files, no network."""

import hashlib
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from training.errors import DownloadError
from training.start.download import download

DATA = bytes(range(256)) * 20_000  # 5 MB
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Send at most `max_bytes` of DATA per response, with `ranges` from the requested start.

    Content-Length is sent if `sends_length`.
    """

    def __init__(self, max_bytes: int, ranges: bool, sends_length: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.max_bytes, self.ranges, self.sends_length = max_bytes, ranges, sends_length
        self.requested: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        requested = self.headers["Range"]
        self.server.requested.append(requested)
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and self.server.ranges else 0
        if start >= len(DATA):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if self.server.sends_length:
            self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(DATA[start : start + self.server.max_bytes])  # then close the connection

    def log_message(self, *_words: Any) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(*request.param) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("server", [(2_000_000, True)], indirect=True)
def test_a_download_resumes_after_a_break(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "weights.pth"
    download(server.url, target, SHA256, pause_s=0)
    assert target.read_bytes() == DATA
    assert server.requested == [None, "bytes=2000000-", "bytes=4000000-"]
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize("server", [(10**7, True)], indirect=True)
def test_a_partial_file_of_an_earlier_attempt_is_continued(server: Server, tmp_path: Path) -> None:
    for fetched in (3_000_000, len(DATA)):
        (tmp_path / "weights.pth.partial").write_bytes(DATA[:fetched])
        download(server.url, tmp_path / "weights.pth", SHA256, pause_s=0)
        assert (tmp_path / "weights.pth").read_bytes() == DATA
    assert server.requested == ["bytes=3000000-", f"bytes={len(DATA)}-"]


@pytest.mark.parametrize("server", [(10**7, True)], indirect=True)
def test_a_partial_file_with_other_content_is_discarded(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.partial").write_bytes(b"another" * 100_000)
    download(server.url, tmp_path / "weights.pth", SHA256, pause_s=0)
    assert (tmp_path / "weights.pth").read_bytes() == DATA
    assert server.requested == ["bytes=700000-", None]


@pytest.mark.parametrize("server", [(10**7, False)], indirect=True)
def test_a_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.partial").write_bytes(DATA[:3_000_000])
    download(server.url, tmp_path / "weights.pth", SHA256, pause_s=0)
    assert (tmp_path / "weights.pth").read_bytes() == DATA


@pytest.mark.parametrize("server", [(10**7, False, False)], indirect=True)
def test_without_a_content_length_the_sha256_decides(server: Server, tmp_path: Path) -> None:
    download(server.url, tmp_path / "weights.pth", SHA256, pause_s=0)
    assert (tmp_path / "weights.pth").read_bytes() == DATA


@pytest.mark.parametrize("server", [(2_000_000, False)], indirect=True)
def test_a_download_without_progress_is_given_up(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"the connection broke off; fetch it elsewhere and put it at"):
        download(server.url, tmp_path / "weights.pth", SHA256, pause_s=0)
    assert not (tmp_path / "weights.pth").exists()


@pytest.mark.parametrize("server", [(10**7, True)], indirect=True)
def test_a_file_with_another_sha256_is_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"has SHA-256 {SHA256}, not 0+: it is another file"):
        download(server.url, tmp_path / "weights.pth", "0" * 64, pause_s=0)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_error_names_the_target(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pth"
        with pytest.raises(
            DownloadError, match=rf"{url} cannot be fetched.*refused.*put it at .*weights.pth"
        ):
            download(url, tmp_path / "weights.pth", SHA256, pause_s=0)


def test_a_source_that_is_no_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"'weights.pth' is neither a file here nor an http"):
        download("weights.pth", tmp_path / "weights.pth", SHA256)

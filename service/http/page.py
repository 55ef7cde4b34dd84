"""The page for people at /, the description for programmers at /docs, and the files of both: read once at
the start, checked again by the browser on each visit (304 where nothing changed).
"""

import gzip
import hashlib
import importlib.resources
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

from service.http.accept import takes_gzip

STATIC: Final = Path(__file__).parent / "static"
# Swagger UI as the package fastapi-offline ships it; FastAPI's own page fetches it from a CDN.
SWAGGER: Final = importlib.resources.files("fastapi_offline") / "static"
KINDS: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# blob: is for pictures chosen on the page and for those fetched with a key, data: for Swagger UI's icons.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class File:
    """Squeezed at the start, so that no request waits for it."""

    body: bytes
    kind: str  # media type
    etag: str = field(init=False)
    squeezed: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "etag", hashlib.sha256(self.body).hexdigest()[:32])
        object.__setattr__(self, "squeezed", gzip.compress(self.body, 6, mtime=0))


def page_routes(max_body_bytes: int) -> APIRouter:
    """`max_body_bytes`: the page refuses larger files itself, with the sentence of a 413."""
    files = {path.name: File(path.read_bytes(), KINDS[path.suffix]) for path in STATIC.iterdir()}
    page, docs = files.pop("index.html"), files.pop("docs.html")
    page = File(_with_limit(page.body, max_body_bytes), page.kind)
    # At /docs/ as well, where a relative address is below that.
    below = File(docs.body.replace(b'"static/', b'"../static/'), docs.kind)
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        files[name] = File((SWAGGER / name).read_bytes(), KINDS[Path(name).suffix])
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        return _answer(request, page)

    @router.get("/docs")
    async def describe(request: Request) -> Response:
        return _answer(request, below if request.scope["raw_path"].endswith(b"/") else docs)

    @router.get("/static/{name}")
    async def static(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        return _answer(request, files[name])

    return router


def _with_limit(page: bytes, max_body_bytes: int) -> bytes:
    empty = b'name="max-body-bytes" content=""'
    assert page.count(empty) == 1
    return page.replace(empty, f'name="max-body-bytes" content="{max_body_bytes}"'.encode())


def _answer(request: Request, file: File) -> Response:
    squeeze = takes_gzip(request.headers.get("accept-encoding", ""))
    etag = f'"{file.etag}{"-gzip" if squeeze else ""}"'
    headers = {
        "Cache-Control": "no-cache",  # kept, but asked about each time: versions never mix
        "ETag": etag,
        "Vary": "Accept-Encoding",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    known = request.headers.get("if-none-match", "").replace("W/", "")
    if etag in {each.strip() for each in known.split(",")}:
        return Response(status_code=304, headers=headers)
    if squeeze:
        headers["Content-Encoding"] = "gzip"
    return Response(file.squeezed if squeeze else file.body, headers=headers, media_type=file.kind)

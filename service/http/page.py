"""Serve the web page at /, Swagger UI at /docs, and their static files.

The files are read once at the start. Browsers revalidate them on each visit: 304 if nothing changed.
"""

import gzip
import hashlib
import importlib.resources
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

from service.http.accept import accepts_gzip

STATIC: Final = Path(__file__).parent / "static"
# Swagger UI from the package fastapi-offline; FastAPI's own page loads it from a CDN.
SWAGGER: Final = importlib.resources.files("fastapi_offline") / "static"
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# blob: for pictures chosen on the page or fetched with an API key; data: for the icons of Swagger UI.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class File:
    """A static file, compressed at the start so that no request waits for it."""

    body: bytes
    media_type: str
    etag: str = field(init=False)
    gzipped: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "etag", hashlib.sha256(self.body).hexdigest()[:32])
        object.__setattr__(self, "gzipped", gzip.compress(self.body, 6, mtime=0))


def page_routes(max_body_bytes: int) -> APIRouter:
    """Create the routes. The page itself refuses files over `max_body_bytes`, with the message of a 413."""
    files = {path.name: File(path.read_bytes(), MEDIA_TYPES[path.suffix]) for path in STATIC.iterdir()}
    page, docs = files.pop("index.html"), files.pop("docs.html")
    page = File(_with_limit(page.body, max_body_bytes), page.media_type)
    # Below /docs/, relative addresses need one more "..".
    docs_with_slash = File(docs.body.replace(b'"static/', b'"../static/'), docs.media_type)
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        files[name] = File((SWAGGER / name).read_bytes(), MEDIA_TYPES[Path(name).suffix])
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        return _respond(request, page)

    @router.get("/docs")
    async def describe(request: Request) -> Response:
        return _respond(request, docs_with_slash if request.scope["raw_path"].endswith(b"/") else docs)

    @router.get("/static/{name}")
    async def static(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        return _respond(request, files[name])

    return router


def _with_limit(page: bytes, max_body_bytes: int) -> bytes:
    placeholder = b'name="max-body-bytes" content=""'
    assert page.count(placeholder) == 1
    return page.replace(placeholder, f'name="max-body-bytes" content="{max_body_bytes}"'.encode())


def _respond(request: Request, file: File) -> Response:
    use_gzip = accepts_gzip(request.headers.get("accept-encoding", ""))
    etag = f'"{file.etag}{"-gzip" if use_gzip else ""}"'
    headers = {
        "Cache-Control": "no-cache",  # cached, but revalidated each time: versions never mix
        "ETag": etag,
        "Vary": "Accept-Encoding",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    cached = request.headers.get("if-none-match", "").replace("W/", "")
    if etag in {tag.strip() for tag in cached.split(",")}:
        return Response(status_code=304, headers=headers)
    if use_gzip:
        headers["Content-Encoding"] = "gzip"
    return Response(file.gzipped if use_gzip else file.body, headers=headers, media_type=file.media_type)

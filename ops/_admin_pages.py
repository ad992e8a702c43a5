"""The pages of the admin HTTP, and the files that they need: all from this package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from aegis.contracts import AdminPage
from aegis.errors import NotFound

__all__ = ["STATIC", "page_handlers"]

STATIC: Final = Path(__file__).parent / "_static"

# Litestar adds the charset to what is text.
_HTML: Final = "text/html"
_KINDS: Final = {
    ".css": "text/css",
    ".html": _HTML,
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


def page_handlers(pages: Iterable[AdminPage] = ()) -> Sequence[ControllerRouterHandler]:
    """Return the live page, the description of the API, those of services, and their files."""
    of_services = {page.name: _files(page.folder) for page in pages}

    @get("/", include_in_schema=False, media_type=_HTML)
    async def live_page() -> bytes:
        return (STATIC / "live.html").read_bytes()

    @get("/api", include_in_schema=False, media_type=_HTML)
    async def reference() -> bytes:
        return (STATIC / "reference.html").read_bytes()

    @get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response[bytes]:
        return _file(_FILES, name)

    @get("/pages/{page:str}", include_in_schema=False)
    async def page_of_service(page: str) -> Response[bytes]:
        return _file(of_services.get(page, {}), "index.html")

    @get("/pages/{page:str}/{name:path}", include_in_schema=False)
    async def file_of_service(page: str, name: str) -> Response[bytes]:
        return _file(of_services.get(page, {}), name)

    return [live_page, reference, static, page_of_service, file_of_service]


def _files(folder: Path) -> Mapping[str, Path]:
    """Return all that may be asked for: nothing else below a folder, and nothing beside it."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix in _KINDS and path.is_file()
    }


def _file(files: Mapping[str, Path], name: str) -> Response[bytes]:
    path = files.get(name.lstrip("/"))
    if path is None:
        raise NotFound(f"no file {name!r}")
    # Small files, which the system keeps in memory anyway.
    return Response(path.read_bytes(), media_type=_KINDS[path.suffix])


_FILES: Final = _files(STATIC)

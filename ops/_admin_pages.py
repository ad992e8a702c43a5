"""The pages of the admin HTTP, and the files that they need: all from this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from aegis.errors import NotFound

__all__ = ["STATIC", "page_handlers"]

STATIC: Final = Path(__file__).parent / "_static"

_HTML: Final = "text/html; charset=utf-8"
_KINDS: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_handlers() -> Sequence[ControllerRouterHandler]:
    """Return the live page, the description of the API, and their files."""

    @get("/", include_in_schema=False, media_type=_HTML)
    async def live_page() -> bytes:
        return (STATIC / "live.html").read_bytes()

    @get("/api", include_in_schema=False, media_type=_HTML)
    async def reference() -> bytes:
        return (STATIC / "reference.html").read_bytes()

    @get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response[bytes]:
        path = _FILES.get(name.lstrip("/"))
        if path is None:
            raise NotFound(f"no file {name!r}")
        # Small files, which the system keeps in memory anyway.
        return Response(path.read_bytes(), media_type=_KINDS[path.suffix])

    return [live_page, reference, static]


_FILES: Final = {
    path.relative_to(STATIC).as_posix(): path
    for path in STATIC.rglob("*")
    if path.suffix in _KINDS and path.is_file()
}
"""All that may be asked for: nothing else below the folder, and nothing beside it."""

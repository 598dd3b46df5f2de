"""The dashboard's files: `static/` as it lies in the package, at `/` below the base path.

Rules:

1. Every asset lives under a path that carries the digest of all of them, so a browser keeps it for
   ever, and a new version is asked for under a new path. Modules import each other relatively: a
   page is of one version, whole, whatever is restarted meanwhile.
2. The one page is asked for anew each time, and answered 304 where it has not changed.
3. Nothing but our own files may run, be shown or be spoken to, and no string becomes markup: the
   policy says so to the browser, so that a fault in the pages is no way in.
"""

from __future__ import annotations

from hashlib import sha256
from importlib import resources
from typing import Final

from attrs import frozen

from p2pstream.manage.server import Exchange, Router
from p2pstream.net.http import Headers, Request, Response

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE: Final = "index.html"
# How the page writes the folder of the assets; the digest takes the place of the sign.
_FOLDER: Final = "static/@/"
_DIGEST_DIGITS: Final = 16

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_SECURITY: Final[Headers] = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_ASK_AGAIN: Final = "no-cache"


@frozen
class Page:
    """One file: what it answers with, whole, or 304 to who has it."""

    body: bytes
    etag: str
    headers: Headers

    @classmethod
    def of(cls, name: str, body: bytes, caching: str) -> Page:
        """Make the page of a file; its type is told by the name."""
        etag = f'"{sha256(body).hexdigest()[:_DIGEST_DIGITS]}"'
        kind = _TYPES[name.rpartition(".")[2]]
        fields = (("content-type", kind), ("cache-control", caching), ("etag", etag))
        return cls(body, etag, (*fields, *_SECURITY))

    async def answer(self, exchange: Exchange) -> Response:
        """Answer a GET (RFC 9110 §13.1.2: a weak comparison)."""
        if self.etag in _etags(exchange.request):
            return Response(304, b"", self.headers)
        return Response(200, self.body, self.headers)


def _etags(request: Request) -> set[str]:
    """What the client says it has; `*` means nothing here."""
    listed = (request.header("if-none-match") or "").split(",")
    return {one.strip().removeprefix("W/") for one in listed}


def assets() -> dict[str, bytes]:
    """The files of the dashboard by name, its page too."""
    folder = resources.files("p2pstream.manage").joinpath("static")
    found = {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}
    return dict(sorted(found.items()))


def add_to(router: Router) -> None:
    """Serve the dashboard."""
    files = assets()
    page = files.pop(_PAGE)
    whole = sha256()
    for name, body in files.items():
        whole.update(f"{name} {len(body)}\n".encode())
        whole.update(body)
    folder = _FOLDER.replace("@", whole.hexdigest()[:_DIGEST_DIGITS])
    body = page.replace(_FOLDER.encode(), folder.encode())
    router.add("GET", "/", Page.of(_PAGE, body, _ASK_AGAIN).answer)
    for name, body in files.items():
        router.add("GET", f"/{folder}{name}", Page.of(name, body, _FOR_EVER).answer)
    if router.base:
        # The page's URLs are relative to its folder, so it needs the slash.
        there = Response(308, b"", (("location", f"{router.base}/"),))

        async def add_the_slash(_: Exchange) -> Response:
            return there

        router.add("GET", "", add_the_slash)

"""Who may talk to the server: hosts, origins, token or password, size of uploads; and what a page may load.

The threat model stands in ``docs/workbench.md``. Other pages in the same browser, other users of the network and of
the machine, and whatever a file or a model says are not trusted; the person with the token is.
"""

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Access", "Guard", "UploadTooLargeError", "login"]

MOST_UPLOAD_BYTES = 20 * 2**20
"""GeoJSON of a slide with some ten thousand regions."""
LOGIN_PAUSE_S = 1.0
PUBLIC = ("/assets/", "/licenses.txt", "/icon.svg", "/login")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class UploadTooLargeError(Exception):
    """A request body beyond the limit."""


@dataclass(eq=False)
class Access:
    """Who may talk to the server.

    Attributes:
        host: address the server listens on.
        token: in the address that is printed; also what the cookie proves.
        password: asked for instead of the token where the server can be reached from other machines.
        framed_by_notebooks: pages of a notebook server on this machine may show the workbench in a frame.
    """

    host: str = "127.0.0.1"
    port: int = 0
    password: str | None = None
    framed_by_notebooks: bool = False
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    _attempt: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def cookie(self) -> str:
        """Name of the cookie. Cookies are shared by all ports of a host, so the port is part of it."""
        return f"pathflip_{self.port}"

    def holds(self, token: str | None) -> bool:
        """Whether this is the token."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def password_is(self, password: str) -> bool:
        """Whether this is the password; wrong ones are answered slowly, one at a time."""
        if self.password is None:
            return False
        digests = (hashlib.sha256(text.encode()).digest() for text in (password, self.password))
        right = hmac.compare_digest(*digests)
        if not right:
            with self._attempt:
                time.sleep(LOGIN_PAUSE_S)
        return right

    def knows_host(self, header: str) -> bool:
        """Whether the browser means this server: a name that an attacker's DNS points here is refused.

        Literal addresses cannot be rebound, so they are accepted where the server listens on more than loopback.
        """
        try:
            parts = urlsplit(f"//{header}")
            name, port = parts.hostname, parts.port
        except ValueError:
            return False
        if name is None or (port is not None and port != self.port and self.password is None):
            return False
        if name in _LOOPBACK or name == self.host:
            return True
        return self.password is not None and _is_address(name)

    def knows_origin(self, origin: str, host: str) -> bool:
        """Whether a request comes from our own page."""
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc == host

    def let_in(self, response: Response, https: bool) -> Response:
        """The response, with the cookie that opens everything else."""
        response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", secure=https, path="/")
        return response


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Checks every request before the application sees it, and adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no websockets here
        headers = Headers(scope=scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message))
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        await self.app(scope, _limited(receive), send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host, path, method = headers.get("host", ""), str(scope["path"]), scope["method"]
        if not self.access.knows_host(host):
            return _refused(421, "this server does not go by that name; use the address that was printed")
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and not self.access.knows_origin(origin, host):
            return _refused(403, "a request from another page")
        if site not in (None, "same-origin", "none") and path != "/":
            return _refused(403, "a request from another page")
        if method not in ("GET", "HEAD") and path != "/login" and headers.get("x-pathflip") != "1":
            return _refused(403, "a request that is not from the workbench's own page")
        if (size := headers.get("content-length")) and size.isdecimal() and int(size) > MOST_UPLOAD_BYTES:
            return _refused(413, f"{int(size) / 2**20:.1f} MB sent, expected at most {MOST_UPLOAD_BYTES // 2**20} MB")
        return None if self._is_allowed(path, scope, headers) else self._turned_away(path)

    def _is_allowed(self, path: str, scope: Scope, headers: Headers) -> bool:
        if path.startswith(PUBLIC):
            return True
        query = parse_qs(scope["query_string"].decode("latin-1"))
        return self.access.holds(_cookie(headers, self.access.cookie)) or any(
            self.access.holds(token) for token in query.get("token", ())
        )

    def _turned_away(self, path: str) -> Response:
        if path == "/" and self.access.password is not None:
            return RedirectResponse("/login", 303)
        return _refused(401, "open the workbench with the whole address that was printed, with its token")

    def _add_headers(self, headers: MutableHeaders) -> None:
        frames = "'self' http://localhost:* http://127.0.0.1:*" if self.access.framed_by_notebooks else "'none'"
        headers["Content-Security-Policy"] = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
            f"base-uri 'none'; form-action 'self'; frame-ancestors {frames}"
        )
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers["Cross-Origin-Opener-Policy"] = "same-origin"
        headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
        headers.setdefault("Cache-Control", "no-store")


def _limited(receive: Receive) -> Receive:
    """Bodies are counted as they arrive: the length a client states need not be true."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MOST_UPLOAD_BYTES:
            raise UploadTooLargeError
        return message

    return counted


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _refused(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)


def login(access: Access, request: Request, password: str) -> Response:
    """Answer to a password: the cookie, or the form again."""
    if access.password_is(password):
        return access.let_in(RedirectResponse("/", 303), request.url.scheme == "https")
    return RedirectResponse("/login?wrong", 303)

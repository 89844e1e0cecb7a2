"""Who may see the page: on this machine whoever asks, elsewhere whoever shows the token; by reading only.

Foreign host names are refused (DNS rebinding). The token comes as a bearer, or is exchanged on the login page for a
cookie that holds until the page's process ends. Nothing can be changed through the page.
"""

import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette import status
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from f2b_server.web.token import LONGEST, is_same
from face2bone_model.report.live.safety import OWN_PAGES, protected

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
LOGIN, ICON = "/login", "/favicon.ico"
OPEN = frozenset({"/static/page.css", "/static/live.css", "/static/icon.svg"})
"""What the login page needs; the same at every centre."""
LOGIN_PAGE = OWN_PAGES.replace("form-action 'none'", "form-action 'self'")
LARGEST_FORM = 3 * LONGEST + 100
"""Every letter of the longest token as `%2F`, and the field's name."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """How a page is reached, and what it demands."""

    hosts: frozenset[str]
    """Names and addresses under which it answers, in lower case, without port."""
    token: str = ""
    """Empty where none is demanded."""
    secure: bool = False
    """Served over TLS."""
    ticket: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """What the cookie holds."""

    @property
    def cookie(self) -> str:
        """Its name; the prefix makes browsers hold it to this very host, over TLS."""
        return "__Host-f2b_centre" if self.secure else "f2b_centre"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a page that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Lets only those in who may see the page, and puts the protective headers on every answer."""

    def __init__(self, app: ASGIApp, door: Door, login: Callable[[bool], str]) -> None:
        self._app = app
        self._door = door
        self._login = login
        """The login page; the argument says whether a wrong token was just given."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or hand it on."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        answer = self._refusal(request) or await self._entry(request) or self._app
        await answer(scope, receive, protected(send))

    def _refusal(self, request: Request) -> Response | None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or _name_of(hosts[0]) not in self._door.hosts:
            return PlainTextResponse("This page does not answer to that name.\n", status.HTTP_403_FORBIDDEN)
        asks_in = self._door.token and request.url.path == LOGIN
        allowed = ("GET", "POST") if asks_in else ("GET",)
        if request.method not in allowed:
            headers = {"Allow": ", ".join(allowed)}
            return PlainTextResponse(
                "This page can only be read.\n", status.HTTP_405_METHOD_NOT_ALLOWED, headers
            )
        return None

    async def _entry(self, request: Request) -> Response | None:
        """Login, or nothing to see; None for who is in."""
        path = request.url.path
        if path == ICON:
            return Response(status_code=status.HTTP_204_NO_CONTENT)
        if not self._door.token or path in OPEN:
            return None
        if path == LOGIN:
            return await self._logged_in(request) if request.method == "POST" else self._ask(wrong=False)
        if self._has_cookie(request) or self._is_bearer(request):
            return None
        if path == "/":
            return RedirectResponse(LOGIN, status.HTTP_303_SEE_OTHER)
        headers = {"WWW-Authenticate": "Bearer"}
        return PlainTextResponse("This page needs its token.\n", status.HTTP_401_UNAUTHORIZED, headers)

    async def _logged_in(self, request: Request) -> Response:
        if not is_same(await _given_token(request), self._door.token):
            return self._ask(wrong=True)
        response = RedirectResponse("/", status.HTTP_303_SEE_OTHER)
        response.set_cookie(
            self._door.cookie,
            self._door.ticket,
            path="/",
            secure=self._door.secure,
            httponly=True,
            samesite="strict",
        )
        return response

    def _ask(self, *, wrong: bool) -> Response:
        code = status.HTTP_403_FORBIDDEN if wrong else status.HTTP_200_OK
        return HTMLResponse(self._login(wrong), code, {"Content-Security-Policy": LOGIN_PAGE})

    def _has_cookie(self, request: Request) -> bool:
        return is_same(request.cookies.get(self._door.cookie, ""), self._door.ticket)

    def _is_bearer(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and is_same(given.strip(), self._door.token)


async def _given_token(request: Request) -> str:
    """The form's field; empty where there is none, or where the form is too large to hold one."""
    body = b""
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_FORM:
                return ""
    except ClientDisconnect:
        return ""
    return QueryParams(body.decode("latin-1")).get("token", "").strip()


def _name_of(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()

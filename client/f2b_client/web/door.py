"""Who may see the pages: whoever holds the address the client printed, on this machine, by reading only.

Other users of the machine can reach its loopback too, and the pages lead to faces. So the printed address carries a
random token; it is exchanged for a cookie. Cookies are shared by all ports of a host, so this one holds for a random
path only, which another program's page cannot name. Foreign host names are refused (DNS rebinding).
"""

import secrets
from dataclasses import dataclass, field

from starlette import status
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from face2bone_model.report.live.safety import protected

HOSTS = frozenset({"127.0.0.1", "localhost"})
COOKIE = "f2b_page"
CLOSED = (
    "This page needs the address that the client printed when it started. "
    "It is also in state/page.url in the hospital's folder, readable by the client's user only.\n"
)


def _random() -> str:
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Door:
    """The secrets of one start of the pages; the next start has others."""

    token: str = field(default_factory=_random)
    """In the printed address."""
    room: str = field(default_factory=_random)
    """First part of every page's path, and all of the cookie's."""
    cookie: str = field(default_factory=_random)

    @property
    def root(self) -> str:
        """Where the pages begin."""
        return f"/{self.room}"

    def address(self, port: int) -> str:
        """What a person opens."""
        return f"http://127.0.0.1:{port}/?token={self.token}"


class Guard:
    """Lets only those in who came through the door, and puts the protective headers on every answer."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or hand it on."""
        if scope["type"] != "http":
            return

        answer = self._refusal(Request(scope)) or self._entry(Request(scope)) or self._app
        await answer(scope, receive, protected(send))

    def _refusal(self, request: Request) -> Response | None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0].partition(":")[0].lower() not in HOSTS:
            return PlainTextResponse("This page answers on 127.0.0.1 only.\n", status.HTTP_403_FORBIDDEN)
        if request.method != "GET":
            return PlainTextResponse(
                "This page can only be read.\n", status.HTTP_405_METHOD_NOT_ALLOWED, {"Allow": "GET"}
            )
        return None

    def _entry(self, request: Request) -> Response | None:
        """Token against cookie; or nothing to see; or None for who is in."""
        path = request.url.path
        if path == "/favicon.ico":
            return Response(status_code=status.HTTP_204_NO_CONTENT)
        if path == "/" and _equal(request.query_params.get("token", ""), self._door.token):
            response = RedirectResponse(f"{self._door.root}/", status.HTTP_303_SEE_OTHER)
            response.set_cookie(
                COOKIE, self._door.cookie, path=f"{self._door.root}/", httponly=True, samesite="strict"
            )
            return response
        inside = path.startswith(f"{self._door.root}/")
        if inside and _equal(request.cookies.get(COOKIE, ""), self._door.cookie):
            return None
        return PlainTextResponse(CLOSED, status.HTTP_403_FORBIDDEN)


def _equal(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode(), secret.encode())

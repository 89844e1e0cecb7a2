"""What listens on loopback: the Control API for who holds the centre's secret, and the Runtime API with its own."""

import hmac

from f2b_server.edge.streams import App, Receive, Scope, Send

SECRET_HEADER = "f2b-control-secret"  # noqa: S105  # the name of a header
CONTROL_SECRET, EXECUTOR_SECRET = "control.secret", "executor.secret"
"""Files below DIR/flower."""
CONTROL = "/v1/control/"
RUNTIME = "/v1/runtime/"
_FORBIDDEN = 403


class Loopback:
    """Keeps other users of this machine out. Hospitals come through the edge, so there is no fleet path here."""

    def __init__(self, app: App, secret: bytes) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._may_pass(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": _FORBIDDEN, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

    def _may_pass(self, scope: Scope) -> bool:
        path = scope["path"]
        if path.startswith(RUNTIME):
            return True
        shown = dict(scope["headers"]).get(SECRET_HEADER.encode(), b"")
        return path.startswith(CONTROL) and hmac.compare_digest(shown, self._secret)

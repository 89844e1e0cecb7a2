"""Serves live pages from a thread, so that whoever started them can go on meanwhile."""

import socket
import ssl
import threading
import time
from asyncio import Protocol
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from face2bone_model.contract.errors import ProcessError, UsageError

LOOPBACK = "127.0.0.1"
START_SECONDS = 10.0
STOP_SECONDS = 5.0


def listen(port: int, host: str = LOOPBACK) -> socket.socket:
    """A socket at this address; port 0 takes a free one.

    Raises:
        UsageError: the address cannot be used.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"Port {port} of {host} cannot be used: {error}.", "Choose another with --port, or 0."
        ) from error
    return listener


@contextmanager
def served(
    app: ASGIApp,
    listener: socket.socket,
    *,
    tls: ssl.SSLContext | None = None,
    http: type[Protocol] | None = None,
) -> Iterator[None]:
    """Serve while the context is open.

    Args:
        app: the pages.
        listener: where; whoever made it closes it.
        tls: to serve HTTPS with.
        http: uvicorn's protocol class; its plain one where none is given.

    Raises:
        ProcessError: the server did not start.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # addresses may hold secrets
        lifespan="off",
        ws="none",
        loop="asyncio",
        http=http or "h11",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        ssl_context_factory=(lambda *_: tls) if tls else None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="live pages", daemon=True)
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield
    finally:
        server.should_exit = True
        thread.join(STOP_SECONDS)


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    end = time.monotonic() + START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise ProcessError("The live pages did not start.", "`report` writes them as files.")
        time.sleep(0.02)

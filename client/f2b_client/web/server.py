"""Serves the live pages on 127.0.0.1 from a thread, so that `start` and `report --serve` can go on meanwhile."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvicorn

from f2b_client.settings import SiteFolder
from f2b_client.web.app import pages_app
from f2b_client.web.door import Door
from face2bone_model.contract.errors import ProcessError, UsageError
from face2bone_model.system.files import write_atomic

LOOPBACK = "127.0.0.1"
ADDRESS_FILE = "page.url"
START_SECONDS = 10.0
STOP_SECONDS = 5.0


@contextmanager
def live_pages(folder: SiteFolder, port: int = 0) -> Iterator[str]:
    """Serve a hospital's live pages; yields their address, which lets whoever holds it in.

    The address is also in `state/page.url`, readable by its owner only, while the pages are served.

    Args:
        folder: the hospital's folder.
        port: on 127.0.0.1; 0 takes a free one.

    Raises:
        UsageError: the port is taken.
        ProcessError: the server did not start.
    """
    with closing(_listen(port)) as listener:
        door = Door()
        address = door.address(listener.getsockname()[1])
        config = uvicorn.Config(
            pages_app(folder, door),
            log_config=None,
            access_log=False,  # addresses hold secrets
            lifespan="off",
            ws="none",
            loop="asyncio",
            http="h11",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="live pages", daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            write_atomic(folder.state / ADDRESS_FILE, f"{address}\n".encode(), mode=0o600)
            yield address
        finally:
            server.should_exit = True
            thread.join(STOP_SECONDS)
            _forget(folder, address)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"Port {port} of {LOOPBACK} cannot be used: {error}.", "Choose another with --port, or 0."
        ) from error
    return listener


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    end = time.monotonic() + START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise ProcessError("The live pages did not start.", "`f2b-client report` writes them as files.")
        time.sleep(0.02)


def _forget(folder: SiteFolder, address: str) -> None:
    """Remove the address, unless another server has put its own there since."""
    path = folder.state / ADDRESS_FILE
    if path.exists() and path.read_text(encoding="utf-8").strip() == address:
        path.unlink()

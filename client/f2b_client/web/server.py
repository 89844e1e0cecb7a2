"""Serves the live pages on 127.0.0.1 from a thread, so that `start` and `report --serve` can go on meanwhile."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from f2b_client.settings import SiteFolder
from f2b_client.web.app import pages_app
from f2b_client.web.door import Door
from face2bone_model.report.live.serving import listen, served
from face2bone_model.system.files import write_atomic

ADDRESS_FILE = "page.url"


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
    with closing(listen(port)) as listener:
        door = Door()
        address = door.address(listener.getsockname()[1])
        with served(pages_app(folder, door), listener):
            write_atomic(folder.state / ADDRESS_FILE, f"{address}\n".encode(), mode=0o600)
            try:
                yield address
            finally:
                _forget(folder, address)


def _forget(folder: SiteFolder, address: str) -> None:
    """Remove the address, unless another server has put its own there since."""
    path = folder.state / ADDRESS_FILE
    if path.exists() and path.read_text(encoding="utf-8").strip() == address:
        path.unlink()

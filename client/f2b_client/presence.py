"""This site's place among the coordinating centre's connected nodes: taken, kept by signs of life, and given back.

A SuperNode that was killed leaves its place behind, and the SuperLink would not let it in again for a minute. So the
number of the place is kept in `state/`, and given back first.
"""

import json
import logging
import threading
from collections.abc import Callable

from f2b_client.flower_internals import CentreError, Fleet, NotAdmittedError, RefusedError
from f2b_client.pace import HEARTBEAT_SECONDS
from f2b_client.settings import SiteFolder
from face2bone_model.system.files import write_json

log = logging.getLogger(__name__)

FILE = "node.json"


class Presence:
    """Joins, gives signs of life from a thread of its own, and leaves. May be used by several threads."""

    def __init__(
        self,
        fleet: Fleet,
        folder: SiteFolder,
        *,
        answered: Callable[[], None],
        failed: Callable[[CentreError], None],
    ) -> None:
        self._fleet = fleet
        self._file = folder.state / FILE
        self._answered = answered
        self._failed = failed
        self._lock = threading.Lock()
        self._node: int | None = None
        self._ended = threading.Event()
        self.busy = False
        """Whether the executor works: then nobody else would notice that the place was lost."""

    def start(self) -> None:
        """Give signs of life from now on, while joined."""
        threading.Thread(target=self._beat, name="signs of life", daemon=True).start()

    def join(self) -> int:
        """Take a place, unless there is one; the node id.

        Raises:
            CentreError: it was not given.
        """
        with self._lock:
            return self._join()

    def lose(self) -> None:
        """Forget the place: the next `join` gives it back and takes a new one, which the centre sees."""
        with self._lock:
            self._node = None

    def leave(self) -> None:
        """Give the place back, if the centre can be reached."""
        self._ended.set()
        with self._lock:
            if self._node is None:
                return
            try:
                self._fleet.deactivate(self._node)
                self._file.unlink(missing_ok=True)
            except CentreError as error:
                log.warning("Left without saying so: %s.", error)

    def _join(self) -> int:
        if self._node is None:
            self._give_back()
            self._node = self._fleet.activate()
            write_json(self._file, {"node": self._node})
            self._answered()
            log.info("Connected as node %s.", self._node)
        return self._node

    def _give_back(self) -> None:
        try:
            stale = int(json.loads(self._file.read_text(encoding="utf-8"))["node"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        try:
            self._fleet.deactivate(stale)
        except (RefusedError, NotAdmittedError) as error:
            log.info("The place held before is gone already: %s.", error)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                self._give_sign()
            except CentreError as error:
                self._failed(error)

    def _give_sign(self) -> None:
        with self._lock:
            if self._node is None and not self.busy:
                return
            node = self._join()
            try:
                self._fleet.heartbeat(node)
            except NotAdmittedError:
                self._node = None
                raise
        self._answered()

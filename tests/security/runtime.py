"""A SuperNode's end of the socket, which hands out one task after another and keeps all it is told."""

import hashlib
import queue
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator import message
from flwr.common.serde import fab_to_proto, run_to_proto
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from f2b_client.handover import Door, wait_for

NODE, RUN = 42, 5


class Runtime:
    """Asks the executor as the SuperNode would; what it answers is every byte that would go on to the centre."""

    def __init__(self, bundle: bytes) -> None:
        self._bundle = bundle
        self._tasks: queue.Queue[list[bytes] | None] = queue.Queue()
        self._replies: queue.Queue[list[bytes]] = queue.Queue()

    def ask(self, content: bytes, kind: str = "query") -> list[bytes]:
        """Hand a task out and wait for its reply, frame by frame."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 7, RUN, 1
        question = message(NODE, content, kind=kind)
        tree, objects = get_object_tree(question), get_all_nested_objects(question)
        digest = hashlib.sha256(self._bundle).hexdigest()
        run = Run.create_empty(RUN)
        run.fab_hash = digest
        head = (tree, run_to_proto(run), fab_to_proto(Fab(digest, self._bundle, {})))
        names = dict.fromkeys(node.object_id for node in iterate_object_tree(tree))
        self._tasks.put(
            [*(part.SerializeToString() for part in head), *(objects[n].deflate() for n in names)]
        )
        return self._replies.get(timeout=60)

    def serve(self, door: Door) -> None:
        """Take the executor in, and pass tasks and replies on until `end`."""
        assert wait_for([door], 60)
        with door.accept() as way:
            while (task := self._tasks.get()) is not None:
                way.send(task)
                self._replies.put(way.receive())

    def end(self) -> None:
        """Hand out no more."""
        self._tasks.put(None)


@contextmanager
def serving(runtime: Runtime) -> Iterator[Path]:
    """The socket it listens on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "executor.sock"
        door = Door(path)
        thread = threading.Thread(target=runtime.serve, args=(door,), daemon=True)
        thread.start()
        try:
            yield path
        finally:
            runtime.end()
            thread.join(20)
            door.close()

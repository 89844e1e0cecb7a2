"""The way between SuperNode and executor: a socket in the site's folder, and frames of bytes on it.

Only processes of this user can open it, and whoever dies is noticed by the other at once. Nothing waits by asking.
"""

import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

FILE = "executor.sock"
COUNT = struct.Struct("!I")
LENGTH = struct.Struct("!Q")
ONLY_OWNER = 0o177
STALL_SECONDS = 60.0
"""Both ends are on one machine: who moves no byte of a message for so long hangs."""
TIMEVAL = struct.Struct("ll")


class Way:
    """One end of a connection. Frames of bytes go over it, many at a time."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        limit = TIMEVAL.pack(int(STALL_SECONDS), int(STALL_SECONDS % 1 * 1e6))
        for option in (
            socket.SO_RCVTIMEO,
            socket.SO_SNDTIMEO,
        ):  # the kernel's, so that whole frames still come at once
            end.setsockopt(socket.SOL_SOCKET, option, limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames.

        Raises:
            OSError: the other end is gone, or hangs.
        """
        lengths = b"".join(LENGTH.pack(len(frame)) for frame in frames)
        self._end.sendall(COUNT.pack(len(frames)) + lengths)
        for frame in frames:
            self._end.sendall(frame)

    def receive(self) -> list[bytes]:
        """Take what the other end sends; `has_news` waits until it begins to.

        Raises:
            OSError: the other end is gone, or hangs.
        """
        (count,) = COUNT.unpack(self._exactly(COUNT.size))
        lengths = self._exactly(count * LENGTH.size)
        return [self._exactly(length) for (length,) in LENGTH.iter_unpack(lengths)]

    def has_news(self, seconds: float) -> bool:
        """Wait at most so long until there is something to receive, the end of the connection included."""
        return wait_for([self], seconds)

    def fileno(self) -> int:
        """The number of the socket, for `select`."""
        return self._end.fileno()

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _exactly(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            part = self._end.recv(length, socket.MSG_WAITALL)
            if not part:
                raise ConnectionError("the other end is gone")
            parts.append(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Door:
    """Where the SuperNode waits for the executor."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(ONLY_OWNER)
        try:
            with _short(path) as name:
                self._socket.bind(name)
        finally:
            os.umask(before)
        self._socket.listen(1)

    def accept(self) -> Way:
        """Take the executor that connected."""
        return Way(self._socket.accept()[0])

    def fileno(self) -> int:
        """The number of the socket, for `select`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def connect(path: Path) -> Way:
    """Connect to the SuperNode.

    Raises:
        OSError: nobody listens.
    """
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            end.connect(name)
    except OSError:
        end.close()
        raise
    return Way(end)


def wait_for(ends: Sequence[Way | Door], seconds: float) -> bool:
    """Wait at most so long until one of these has news."""
    return bool(select.select(ends, [], [], seconds)[0])


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """The socket's name by way of its open folder: the kernel takes no socket's path longer than 107 bytes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        by_number = Path(f"/proc/self/fd/{folder}")
        yield str((by_number if by_number.exists() else path.parent) / path.name)
    finally:
        os.close(folder)

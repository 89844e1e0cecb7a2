"""A request's bytes on their way: counted, in pieces, and never waited for without end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from f2b_server.edge.refusals import TIMED_OUT, TOO_LARGE, Refused
from f2b_server.edge.seen import Traffic

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SIGNED_KEY = "f2b.key"
"""In the scope of a request the edge let in: the key, in PEM, whose signature it has checked."""
PIECE_BYTES = 262_144
STALLED_SECONDS = 60.0
"""A body of which no byte comes or goes for this long is given up."""


def announced_size(headers: Mapping[bytes, bytes], limit: int) -> int:
    """The size of the body, which every SuperNode announces.

    Raises:
        Refused: it is larger than `limit`, or not announced.
    """
    try:
        size = int(headers[b"content-length"])
    except (KeyError, ValueError):
        raise Refused(TOO_LARGE, "a body of unknown size") from None
    if not 0 <= size <= limit:
        raise Refused(TOO_LARGE, f"a body of {size} bytes")
    return size


class Stream:
    """The two directions of one request, as the app behind the edge gets them."""

    def __init__(self, receive: Receive, send: Send, traffic: Traffic, size: int) -> None:
        self._receive = receive
        self._send = send
        self._traffic = traffic
        self._missing = size
        self.stalled = False
        self._answered = False

    async def receive(self) -> Message:
        """The next piece of the body; a body that stopped coming is a client that is gone."""
        if self.stalled:
            return {"type": "http.disconnect"}
        if self._missing <= 0:
            return await self._receive()
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                message = await self._receive()
        except TimeoutError:
            self.stalled = True
            return {"type": "http.disconnect"}
        size = len(message.get("body", b""))
        self._missing -= size
        self._traffic.received(size)
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on, a large one in pieces: so a slow link is seen to move, and little of it is waiting.

        Raises:
            ConnectionResetError: the site takes nothing more.
        """
        if self.stalled:
            return
        self._answered = True
        body = message.get("body", b"")
        if len(body) <= PIECE_BYTES:
            await self._pass(message, len(body))
            return
        view = memoryview(body)
        for start in range(0, len(body), PIECE_BYTES):
            piece = view[start : start + PIECE_BYTES]
            more = start + PIECE_BYTES < len(body) or message.get("more_body", False)
            await self._pass({"type": message["type"], "body": piece, "more_body": more}, len(piece))

    async def _pass(self, message: Message, size: int) -> None:
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await self._send(message)
        except TimeoutError:
            self.stalled = True
            raise ConnectionResetError("the site takes nothing more") from None
        self._traffic.sent(size)

    def check(self) -> None:
        """Raise if the body stopped coming and nothing was answered.

        Raises:
            Refused: so it was.
        """
        if self.stalled and not self._answered:
            raise Refused(TIMED_OUT, f"nothing came for {STALLED_SECONDS:.0f} s")

"""A connection that says nothing is not kept: a limit on the time a request's head may take."""

import asyncio
from asyncio import TimerHandle

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 30.0


class ImpatientProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, which by itself waits for ever for a head that was begun, or for the first one."""

    _patience: TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the first head its time."""
        super().connection_made(transport)  # type: ignore[arg-type]  # as asyncio declares it
        self._begin()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._end()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Give a head its time."""
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        """It came in time."""
        self._end()
        super().on_headers_complete()

    def _begin(self) -> None:
        self._end()
        self._patience = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

"""The ClientApp: turns a Flower message into bytes for the site's work, and a release of the gate into a reply."""

import logging
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from typing_extensions import override

from f2b_client.egress import Release

log = logging.getLogger(__name__)

PAYLOAD = "payload"
QUERY = "query"


class SiteApp(ClientApp):
    """Passes every message's payload to `answer`. One array each way, nothing beside it, and a receipt for each."""

    def __init__(self, answer: Callable[[bytes], Release]) -> None:
        super().__init__()
        self._answer = answer

    @override
    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message of whatever kind; one that is no query of ours as if it were empty."""
        return _reply(self._answer(_payload(message)), message)

    def refuse(self, message: Message) -> Message:
        """Answer a message without looking into it."""
        return _reply(self._answer(b""), message)


def _reply(release: Release, message: Message) -> Message:
    array = Array("uint8", (len(release.payload),), "raw", release.payload)
    return Message(RecordDict({PAYLOAD: ArrayRecord({PAYLOAD: array})}), reply_to=message)


def _payload(message: Message) -> bytes:
    """The request's bytes; empty where the message is not ours, which no request is."""
    if message.metadata.message_type != QUERY or not message.has_content():
        return b""
    records = message.content.array_records
    if (
        set(message.content.keys()) != {PAYLOAD}
        or set(records) != {PAYLOAD}
        or set(records[PAYLOAD]) != {PAYLOAD}
    ):
        return b""
    array = records[PAYLOAD][PAYLOAD]
    plain = array.dtype == "uint8" and array.stype == "raw" and tuple(array.shape) == (len(array.data),)
    return array.data if plain else b""

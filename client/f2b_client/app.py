"""The ClientApp: turns a Flower message into bytes for the site's work, and a release of the gate into a reply."""

import logging
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from f2b_client.egress import Release

log = logging.getLogger(__name__)

PAYLOAD = "payload"


def make_app(answer: Callable[[bytes], Release]) -> ClientApp:
    """A ClientApp that passes every message's payload to `answer`. One array each way, nothing beside it."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:  # Flower's signature
        release = answer(_payload(message))
        array = Array("uint8", (len(release.payload),), "raw", release.payload)
        return Message(RecordDict({PAYLOAD: ArrayRecord({PAYLOAD: array})}), reply_to=message)

    return app


def _payload(message: Message) -> bytes:
    """The request's bytes; empty where the message is not ours, which no request is."""
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

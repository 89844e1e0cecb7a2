"""POST /v1/enrol: a hospital brings its public key with a one-time token, and proves that it holds the key."""

import asyncio
import json
from collections.abc import Callable

from f2b_server.edge.refusals import FORBIDDEN, Refused
from f2b_server.edge.streams import Stream
from face2bone_model.contract.errors import Face2BoneError
from face2bone_model.contract.fingerprint import fingerprint

ENROL_PATH = "/v1/enrol"
LARGEST_ENROLMENT = 16_384
FIELDS = ("site", "token", "public_key", "signature")

Redeem = Callable[[dict[str, str]], str]
"""Redeems a token for a key; returns the public key as it went onto the roster; raises a numbered error."""


async def enrol(stream: Stream, redeem: Redeem) -> dict[str, object]:
    """Read the four fields and redeem the token.

    Raises:
        Refused: they are not as they should be, or the token is not good; the asker is not told which.
    """
    asked = await _read(stream)
    try:
        public_key = await asyncio.to_thread(redeem, asked)
    except Face2BoneError as error:
        raise Refused(FORBIDDEN, f"enrolment of '{asked['site'][:64]}': {error.what}") from None
    return {"site": asked["site"], "fingerprint": fingerprint(public_key)}


async def _read(stream: Stream) -> dict[str, str]:
    body = b""
    while True:
        message = await stream.receive()
        if message["type"] != "http.request":
            stream.check()
            raise Refused(FORBIDDEN, "an enrolment that was broken off")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    try:
        asked = json.loads(body)
        fields = {name: asked[name] for name in FIELDS}
    except (ValueError, TypeError, KeyError):
        raise Refused(FORBIDDEN, "an enrolment that cannot be read") from None
    if not all(isinstance(value, str) for value in fields.values()):
        raise Refused(FORBIDDEN, "an enrolment that cannot be read")
    return fields

"""Looks for what must not leave, in every form it could have on its way out."""

import base64
import re
import zlib
from collections.abc import Iterable, Iterator
from urllib.parse import quote_from_bytes

ZLIB_BEGINNINGS = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08")
LARGEST_UNPACKED = 1 << 24


def forms(content: bytes) -> set[bytes]:
    """The bytes themselves, in hexadecimal, in base64 at each alignment, percent-encoded, reversed; text in UTF-16."""
    shapes = {content, content.hex().encode(), content.hex().upper().encode(), content[::-1]}
    for offset in range(3):
        # Characters that also depend on what stands before or after are cut off.
        inner = content[offset : offset + (len(content) - offset) // 3 * 3]
        shapes |= {base64.b64encode(inner), base64.urlsafe_b64encode(inner)}
    shapes.add(quote_from_bytes(content).encode())
    try:
        text = content.decode("utf-8")
        shapes |= {
            text.encode("utf-16-le"),
            text.encode("utf-16-be"),
            text.lower().encode(),
            text.upper().encode(),
        }
    except UnicodeDecodeError:
        pass
    return {shape for shape in shapes if len(shape) >= min(len(content), 8)}


def unpacked(content: bytes) -> Iterator[bytes]:
    """Whatever in these bytes is a zlib or gzip stream, decompressed."""
    view = memoryview(content)
    for match in ZLIB_BEGINNINGS.finditer(content):
        try:
            plain = zlib.decompressobj(wbits=47).decompress(view[match.start() :], LARGEST_UNPACKED)
        except zlib.error:
            continue
        if len(plain) > 8:
            yield plain


class Haystack:
    """Captured bytes, with whatever is compressed in them unpacked."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        joined = b"\x00\x00\x00".join(parts)
        self.size = len(joined)
        self._text = b"\x00\x00\x00".join([joined, *unpacked(joined)])

    def holds(self, content: bytes) -> bool:
        """Whether it holds this in any form."""
        return any(shape in self._text for shape in forms(content))

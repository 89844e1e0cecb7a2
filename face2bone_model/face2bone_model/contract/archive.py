"""A zip archive of stored files in one form: the same files give the same bytes, and no other bytes are read.

Any zip program opens it. It is written and read here rather than by `zipfile`, whose bytes follow the Python version
and whose reader puts up with a lot: archives inside archives, entries that overlap, names given twice, other bytes
before and behind. Here each byte follows from the files' names and contents, so nothing can hide, and nothing is
unpacked: a file cannot become larger than the archive that holds it.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from face2bone_model.contract.errors import ReleaseError

_ENTRY, _LISTED, _END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
_ENTRY_MARK, _LISTED_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_ZIP_VERSION = 20
_UNIX = 3 << 8
_REGULAR_FILE = 0o100644 << 16
_WRITTEN_AT = (0, 33)
"""Midnight, 1 January 1980: the archive's bytes do not follow the clock."""
_MOST_FILES = 32
_LONGEST_NAME = 100


class _Head(NamedTuple):
    name: bytes
    checksum: int
    size: int
    offset: int


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """Pack files, in the order of their names; at most 4 GiB together."""
    parts: list[bytes] = []
    heads: list[_Head] = []
    offset = 0
    for name in sorted(files):
        head = _head(name.encode("ascii"), files[name], offset)
        parts += [_entry(head), files[name]]
        offset += len(parts[-2]) + head.size
        heads.append(head)
    return b"".join([*parts, _directory(heads, offset)])


def read_archive(content: bytes, source: str) -> dict[str, bytes]:
    """Read what `write_archive` wrote.

    Args:
        content: the archive.
        source: its file's name, for messages.

    Raises:
        ReleaseError: the bytes differ anywhere from what `write_archive` would write of the files in them.
    """
    heads: list[_Head] = []
    files: dict[str, bytes] = {}
    offset = 0
    while content[offset : offset + 4] == _ENTRY_MARK and len(heads) < _MOST_FILES:
        start, end = _extent(content, offset, source)
        head = _head(content[offset + _ENTRY.size : start], content[start:end], offset)
        name = _readable(head.name)
        if content[offset:start] != _entry(head):
            raise _other_form(
                source, f"'{name}' is cut short, or packed in another way than the centre packs"
            )
        files[name] = content[start:end]
        heads.append(head)
        offset = end
    if content[offset:] != _directory(heads, offset) or not _in_order(heads):
        raise _other_form(
            source, "it is not an archive as the centre writes it: cut short, added to or packed anew"
        )
    return files


def _extent(content: bytes, offset: int, source: str) -> tuple[int, int]:
    """Where the contents of the entry at `offset` begin and end, as its head says."""
    if len(content) < offset + _ENTRY.size:
        raise _other_form(source, "it is cut short")
    fields = _ENTRY.unpack_from(content, offset)
    size, name_length = fields[8], fields[9]
    if name_length > _LONGEST_NAME:
        raise _other_form(source, "a file in it has too long a name")
    start = offset + _ENTRY.size + name_length
    return start, start + size


def _head(name: bytes, content: bytes, offset: int) -> _Head:
    return _Head(name, zlib.crc32(content), len(content), offset)


def _entry(head: _Head) -> bytes:
    sizes = (head.checksum, head.size, head.size, len(head.name), 0)
    return _ENTRY.pack(_ENTRY_MARK, _ZIP_VERSION, 0, 0, *_WRITTEN_AT, *sizes) + head.name


def _directory(heads: Sequence[_Head], offset: int) -> bytes:
    listed = b"".join(_listed(head) for head in heads)
    end = _END.pack(_END_MARK, 0, 0, len(heads), len(heads), len(listed), offset, 0)
    return listed + end


def _listed(head: _Head) -> bytes:
    sizes = (head.checksum, head.size, head.size, len(head.name), 0, 0, 0, 0, _REGULAR_FILE, head.offset)
    version = _UNIX | _ZIP_VERSION
    return _LISTED.pack(_LISTED_MARK, version, _ZIP_VERSION, 0, 0, *_WRITTEN_AT, *sizes) + head.name


def _in_order(heads: Sequence[_Head]) -> bool:
    """Whether each name is there once, in order."""
    return all(one.name < other.name for one, other in pairwise(heads))


def _readable(name: bytes) -> str:
    """A name out of a strange file, fit to be printed."""
    return name.decode("ascii", "backslashreplace").encode("unicode_escape").decode("ascii")


def _other_form(source: str, what: str) -> ReleaseError:
    return ReleaseError(f"{source}: {what}.", "Ask the coordinating centre for the release again.")

"""A study's bundle holds no code; any other bundle is refused unread."""

import zipfile
from io import BytesIO

import pytest
from flwr.cli.build import build_fab_from_files
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.contract.bundle import BUNDLE_FILES, LARGEST_BYTES, refuse_foreign_bundle
from face2bone_model.contract.errors import RequestError

OURS, _ = build_fab_from_files(BUNDLE_FILES)


def zipped(files, compression=zipfile.ZIP_DEFLATED):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def files_of(bundle):
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def test_our_own_bundle_as_flower_builds_it_is_accepted():
    refuse_foreign_bundle(OURS)


def test_our_own_bundle_holds_no_code():
    assert not [name for name, _ in files_of(OURS) if not name.endswith((".toml", ".md", "CONTENT"))]


@pytest.mark.parametrize(
    "name", ["client_app.py", "f2b_client/app.py", "README.md/x", "../README.md", ".info/METADATA", "lib.so"]
)
def test_a_bundle_with_any_other_file_is_refused_by_name(name):
    with pytest.raises(RequestError, match="foreign files") as caught:
        refuse_foreign_bundle(zipped([*files_of(OURS), (name, b"import os")]))
    assert name in str(caught.value)


def test_a_bundle_with_another_text_in_our_file_is_refused():
    with pytest.raises(RequestError, match=r"README.md changed"):
        refuse_foreign_bundle(zipped([("pyproject.toml", b""), ("README.md", b"Run me.")]))


def test_a_bundle_without_our_file_is_refused():
    with pytest.raises(RequestError, match="not a face2bone bundle"):
        refuse_foreign_bundle(zipped([("pyproject.toml", b"")]))


def test_a_large_bundle_is_refused_by_its_size_alone():
    with pytest.raises(RequestError, match=f"{LARGEST_BYTES + 1} bytes"):
        refuse_foreign_bundle(b"x" * (LARGEST_BYTES + 1))


def test_a_small_bundle_that_unpacks_to_a_large_one_is_refused_before_it_is_unpacked():
    bomb = zipped([("README.md", bytes(40_000_000))])
    assert len(bomb) < LARGEST_BYTES
    with pytest.raises(RequestError, match="would unpack to"):
        refuse_foreign_bundle(bomb)


@given(st.binary(max_size=200))
def test_garbage_is_refused(bundle):
    with pytest.raises(RequestError):
        refuse_foreign_bundle(bundle)


@given(st.integers(0, len(OURS) - 1), st.integers(1, 255))
def test_a_damaged_bundle_is_accepted_or_refused_by_number_but_never_fails_otherwise(position, change):
    damaged = bytearray(OURS)
    damaged[position] ^= change
    try:
        refuse_foreign_bundle(bytes(damaged))
    except RequestError as error:
        assert error.code == 23  # noqa: PT017  # acceptance is an outcome too


def test_an_encrypted_bundle_is_refused():
    marked = bytearray(OURS)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := marked.find(signature, start)) >= 0:
            marked[start + offset] |= 1
            start += 4
    with pytest.raises(RequestError):
        refuse_foreign_bundle(bytes(marked))

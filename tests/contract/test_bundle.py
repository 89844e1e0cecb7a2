"""A study's bundle holds no code and is the same everywhere; any other bundle is refused unopened."""

import ast
import hashlib
import inspect
import zipfile
from io import BytesIO

import pytest
from flwr.app import Context  # noqa: F401  # Flower first: its modules import each other in a circle
from flwr.cli.build import build_fab_from_files
from flwr.cli.config_utils import get_fab_config, get_fab_metadata
from flwr.cli.install import install_from_fab
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.contract import bundle as bundle_module
from face2bone_model.contract.bundle import (
    ALLOWED_BUNDLES,
    BUNDLE_FILES,
    MANIFEST,
    refuse_foreign_bundle,
    study_bundle,
)
from face2bone_model.contract.errors import RequestError

OURS = study_bundle()
DIGEST = hashlib.sha256(OURS).hexdigest()


def files_of(bundle):
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_another_file(name, content=b"import os"):
    buffer = BytesIO(OURS)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def test_our_bundle_is_on_the_list_and_the_digest_is_the_same_on_every_machine():
    assert DIGEST in ALLOWED_BUNDLES
    assert DIGEST == "b228a6271134039c51ee7a2835e5b49a7fcd64eb1cbd0452ef604098e346f98c"
    assert study_bundle() == OURS
    refuse_foreign_bundle(OURS, [DIGEST, DIGEST])


def test_our_bundle_holds_no_code():
    assert set(files_of(OURS)) == {"pyproject.toml", "README.md", MANIFEST}
    assert {name: files_of(OURS)[name] for name in BUNDLE_FILES} == BUNDLE_FILES


def test_flower_reads_our_bundle_and_finds_the_manifest_it_wants(tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    assert get_fab_metadata(OURS) == ("face2bone/face2bone-study", "1.0.0")
    components = get_fab_config(OURS)["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "f2b_server.app:app", "clientapp": "f2b_client.app:app"}
    theirs = files_of(build_fab_from_files(BUNDLE_FILES)[0])
    assert theirs[MANIFEST].decode().splitlines()[1] == files_of(OURS)[MANIFEST].decode().splitlines()[1]
    installed = install_from_fab(OURS, skip_prompt=True)  # refuses a manifest that does not fit
    assert (installed / "README.md").read_bytes() == BUNDLE_FILES["README.md"]


@pytest.mark.parametrize(
    "name", ["client_app.py", "f2b_client/app.py", "README.md/x", "../README.md", ".info/METADATA", "lib.so"]
)
def test_a_bundle_with_any_other_file_is_refused(name):
    with pytest.raises(RequestError, match="not face2bone's"):
        refuse_foreign_bundle(with_another_file(name))


@pytest.mark.parametrize(
    "bundle",
    [b"", b"no zip", OURS[:-1], OURS + b"\0", OURS * 2],
    ids=["empty", "text", "cut", "tail", "twice"],
)
def test_whatever_is_not_byte_for_byte_ours_is_refused(bundle):
    with pytest.raises(RequestError) as caught:
        refuse_foreign_bundle(bundle)
    assert caught.value.code == 23


@pytest.mark.parametrize("announced", [["0" * 64], [DIGEST, "0" * 64], [DIGEST[:-1]], [""]])
def test_a_bundle_that_is_not_the_one_announced_is_refused(announced):
    with pytest.raises(RequestError, match="announces"):
        refuse_foreign_bundle(OURS, announced)


def test_a_bomb_is_refused_without_being_opened():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", bytes(40_000_000))
    with pytest.raises(RequestError, match="not face2bone's"):
        refuse_foreign_bundle(buffer.getvalue())


def test_checking_a_bundle_opens_nothing():
    nodes = ast.walk(ast.parse(inspect.getsource(refuse_foreign_bundle)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not names & {"zipfile", "BytesIO", "open"}
    assert "zlib" not in vars(bundle_module)


@given(st.binary(max_size=200))
def test_garbage_is_refused(bundle):
    with pytest.raises(RequestError):
        refuse_foreign_bundle(bundle)


@given(st.integers(0, len(OURS) - 1), st.integers(1, 255))
def test_a_single_changed_byte_is_refused(position, change):
    damaged = bytearray(OURS)
    damaged[position] ^= change
    with pytest.raises(RequestError):
        refuse_foreign_bundle(bytes(damaged))

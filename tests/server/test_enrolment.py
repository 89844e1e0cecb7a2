"""Kits go out without a secret; public keys come in, one for each site."""

import json
import zipfile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from f2b_client.join import join
from f2b_client.settings import SiteFolder, load_joined
from f2b_server.certificates import make_ca, make_server_certificate
from f2b_server.enrolment import admit, roster, write_kit
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import EnrolmentError, SettingsError
from face2bone_model.contract.study import load_study

TEXT = 'name = "Bones"\nquestion = "?"\nsites = ["harbour", "hilltop"]\ntrunk_name = "random"\ntrunk_digest = "0"\n'
SIGNED = TEXT + 'model_signature = "a"\nstatistics_signature = "b"\n'


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    folder.path.mkdir()
    folder.study.write_text(SIGNED, encoding="utf-8")
    make_ca(folder.ca, "Bones")
    return folder


def kit_of(folder, tmp_path, site="harbour", name="kit.zip"):
    return write_kit(folder, site, "centre.example:9443", tmp_path / name)


def joined_key(folder, tmp_path, site):
    return join(
        SiteFolder(tmp_path / site), kit_of(folder, tmp_path, site, f"{site}.zip")
    ).public_key.read_bytes()


def test_a_kit_brings_address_ca_and_study_to_the_site_it_is_for(folder, tmp_path):
    join(SiteFolder(tmp_path / "site"), kit_of(folder, tmp_path))
    joined = load_joined(SiteFolder(tmp_path / "site"))
    assert (joined.site, joined.study, joined.address) == ("harbour", "Bones", "centre.example:9443")
    assert joined.ca.read_bytes() == (folder.ca / "ca.pem").read_bytes()
    assert load_study(tmp_path / "site" / "joined" / "study.toml").hash() == load_study(folder.study).hash()


def test_a_kit_holds_no_private_key_and_nothing_unexpected(folder, tmp_path):
    make_server_certificate(folder.ca, ["localhost"])
    with zipfile.ZipFile(kit_of(folder, tmp_path)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert set(contents) == {"kit.json", "ca.pem", "study.toml"}
    assert set(json.loads(contents["kit.json"])) == {"site", "study", "address", "study_hash"}
    for secret in ("ca.key", "server.key"):
        middle = (folder.ca / secret).read_bytes().splitlines()[2]
        assert not any(b"PRIVATE" in content or middle in content for content in contents.values())


def test_the_same_kit_has_the_same_bytes(folder, tmp_path):
    one, two = kit_of(folder, tmp_path, name="1.zip"), kit_of(folder, tmp_path, name="2.zip")
    assert one.read_bytes() == two.read_bytes()


def test_a_site_the_study_does_not_name_gets_no_kit_and_no_place(folder, tmp_path):
    with pytest.raises(EnrolmentError, match="does not name 'elsewhere'.*harbour, hilltop"):
        kit_of(folder, tmp_path, "elsewhere")
    with pytest.raises(EnrolmentError, match="does not name"):
        admit(folder, "../escape", joined_key(folder, tmp_path, "harbour"))
    assert roster(folder) == ()


def test_admitted_sites_are_on_the_roster_in_alphabetical_order(folder, tmp_path):
    for site in ("hilltop", "harbour"):
        admit(folder, site, joined_key(folder, tmp_path, site))
    assert [entry.site for entry in roster(folder)] == ["harbour", "hilltop"]


def test_admitting_the_same_key_twice_changes_nothing(folder, tmp_path):
    key = joined_key(folder, tmp_path, "harbour")
    first = admit(folder, "harbour", key)
    assert admit(folder, "harbour", key + b" it@harbour\n") == first
    assert roster(folder) == (first,)


def test_another_key_of_an_admitted_site_is_refused(folder, tmp_path):
    admit(folder, "harbour", joined_key(folder, tmp_path, "harbour"))
    with pytest.raises(EnrolmentError, match="'harbour' is on the roster with another key.*by phone"):
        admit(folder, "harbour", joined_key(folder, tmp_path, "hilltop"))
    assert len(roster(folder)) == 1


def test_one_key_cannot_stand_for_two_sites(folder, tmp_path):
    key = joined_key(folder, tmp_path, "harbour")
    admit(folder, "harbour", key)
    with pytest.raises(EnrolmentError, match="belongs to 'harbour'"):
        admit(folder, "hilltop", key)


def test_a_comment_that_is_not_ascii_does_not_matter(folder, tmp_path):
    key = joined_key(folder, tmp_path, "harbour")
    entry = admit(folder, "harbour", key + " müller@köln".encode())
    assert entry.public_key == key.decode().strip()


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xfe", b"ecdsa-sha2-nistp384 AAAA", b"ssh-foo AAAA"]
)
def test_what_is_no_public_key_is_refused(folder, content):
    with pytest.raises(EnrolmentError, match="not an OpenSSH public key"):
        admit(folder, "harbour", content)


def test_a_key_of_another_kind_is_refused(folder):
    key = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    with pytest.raises(EnrolmentError, match="not an elliptic-curve key"):
        admit(folder, "harbour", key)


def test_a_private_key_sent_by_mistake_is_refused(folder, tmp_path):
    joined_key(folder, tmp_path, "harbour")
    with pytest.raises(EnrolmentError, match="node.pub"):
        admit(folder, "harbour", (tmp_path / "harbour" / "keys" / "node").read_bytes())
    assert roster(folder) == ()


def test_no_kit_before_the_study_is_complete(folder, tmp_path):
    folder.study.write_text(TEXT, encoding="utf-8")
    with pytest.raises(SettingsError, match="study check"):
        write_kit(folder, "harbour", "localhost:1", tmp_path / "kit.zip")
    assert not (tmp_path / "kit.zip").exists()

"""Released models at a hospital: verified against the CA it joined and the study it approved, before use."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from released_study import write_study
from typer.testing import CliRunner

from f2b_client.approval import approve, revoke
from f2b_client.cli import app
from f2b_client.models import (
    OwnShare,
    install_release,
    installed_release,
    installed_releases,
    own_share,
    verify_release,
)
from f2b_client.receipts import UPDATE, write_receipt
from f2b_client.release_check import check_release, load_model
from f2b_client.settings import SiteFolder
from f2b_server.registry.release import release_model
from face2bone_model.contract.errors import (
    EnrolmentError,
    NotApprovedError,
    ReleaseError,
    SignatureError,
    UsageError,
    WeightsError,
)
from face2bone_model.contract.policy import Policy
from face2bone_model.contract.study import ModelSettings, load_study
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import trainable_tensors
from face2bone_model.models.trunk import random_trunk_tensors, trunk_digest
from face2bone_model.system.files import write_atomic, write_json


def join(path, centre, site="harbour"):
    """A hospital that joined the centre's study and approved it."""
    folder = SiteFolder(path)
    write_json(folder.joined / "kit.json", {"site": site, "study": "Bones", "address": "127.0.0.1:8443"})
    write_atomic(folder.joined / "ca.pem", (centre.ca / "ca.pem").read_bytes())
    write_atomic(folder.settings, b"[weights]\nfolder = 'weights'\n")
    approve(folder, centre.study, Policy())
    return folder


@pytest.fixture(scope="module")
def centre(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("centre") / "study")


@pytest.fixture(scope="module")
def released(centre):
    return release_model(centre, 2)


@pytest.fixture
def site(centre, tmp_path):
    return join(tmp_path / "site", centre)


def command(*words, expect=0):
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    if expect:
        assert type(done.exception).code == expect
        return str(done.exception)
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_release_of_the_joined_centre_is_verified_and_installed_under_its_digest(site, released):
    release = verify_release(site, released.path)
    assert not (site.path / "models").exists()
    path, installed = install_release(site, released.path)
    assert path == site.path / "models" / f"round-002-{release.digest[:12]}.zip"
    assert path.read_bytes() == released.path.read_bytes() == installed.archive
    (listed,) = installed_releases(site)
    assert (listed.name, listed.fault, listed.release.digest) == (path.stem, "", release.digest)


def test_installing_again_changes_nothing_and_mends_a_damaged_copy(site, released):
    path, _ = install_release(site, released.path)
    before = path.stat().st_mtime_ns
    install_release(site, released.path)
    assert path.stat().st_mtime_ns == before
    change(path)
    install_release(site, released.path)
    assert path.read_bytes() == released.path.read_bytes()


def test_a_changed_release_is_not_installed(site, released, tmp_path):
    changed = Path(shutil.copy(released.path, tmp_path / "changed.zip"))
    change(changed)
    with pytest.raises(ReleaseError, match=r"changed\.zip"):
        install_release(site, changed)
    assert not (site.path / "models").exists()


def test_a_release_of_another_centre_is_refused(site, tmp_path):
    other = release_model(write_study(tmp_path / "other"), 2)
    with pytest.raises(ReleaseError, match="was not made under the CA"):
        install_release(site, other.path)


def test_a_release_of_a_study_that_was_not_approved_is_verified_but_not_installed(site, centre, released):
    revoke(site, load_study(centre.study).hash())
    assert verify_release(site, released.path).manifest.round == 2
    with pytest.raises(NotApprovedError):
        install_release(site, released.path)


def test_a_site_that_never_joined_cannot_verify(released, tmp_path):
    with pytest.raises(EnrolmentError, match="has not joined"):
        verify_release(SiteFolder(tmp_path), released.path)


def test_an_installed_model_that_was_changed_is_listed_with_its_fault_and_never_loaded(site, released):
    path, release = install_release(site, released.path)
    change(path)
    (listed,) = installed_releases(site)
    assert listed.release is None
    assert path.name in listed.fault
    with pytest.raises(ReleaseError, match=path.name):
        installed_release(site, release.name)


def test_a_good_release_under_anothers_name_is_a_fault(site, centre, released):
    path, release = install_release(site, released.path)
    shutil.copy(release_model(centre, 3).path, path)
    assert "holds another release: round-003" in installed_releases(site)[0].fault
    with pytest.raises(ReleaseError, match="holds another release"):
        installed_release(site, release.name)


@pytest.mark.parametrize("name", ["round-009", "../joined/x", "/etc/passwd", ""])
def test_only_installed_names_are_looked_for(site, released, name):
    install_release(site, released.path)
    with pytest.raises(UsageError, match="is installed"):
        installed_release(site, name)


def test_a_hospital_finds_its_own_replies_in_the_release(site, released):
    release = verify_release(site, released.path)
    assert own_share(site, release) == OwnShare((1, 2), (1, 2))
    assert "no receipt here, in rounds: 1, 2" in own_share(site, release).words()


def test_replies_with_a_receipt_are_known(tmp_path):
    """A receipt names the digest of the reply; the release names the same."""
    centre = write_study(tmp_path / "study")
    site, key = join(tmp_path / "site", centre), Ed25519PrivateKey.generate()
    for number in (1, 2):
        payload = f"reply {number}".encode()
        path = centre.rounds / f"{number:03d}" / "record.json"
        record = json.loads(path.read_text())
        record["contributions"]["harbour"]["payload_digest"] = hashlib.sha256(payload).hexdigest()
        write_json(path, record)
        about = {"study_hash": "x", "phase": "train", "round_number": number, "kind": UPDATE}
        write_receipt(site.receipts, key, payload=payload, **about)
    share = own_share(site, release_model(centre, 2).release)
    assert share == OwnShare((1, 2), ())
    assert share.words() == "It holds 2 updates of this hospital; each has its receipt here."


def test_a_hospital_that_is_not_in_the_model_is_told(centre, released, tmp_path):
    outside = join(tmp_path / "outside", centre, "elsewhere")
    assert "no update of this hospital" in own_share(outside, released.release).words()


def small_study(path, *, trunk="", without="no such tensor", settings=""):
    """A study of a real network, small, on the seeded random trunk."""
    tensors = trainable_tensors(build_model(ModelSettings(stem_width=8, branch_width=8), seed=0))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(without)}
    sizes = "[model]\nstem_width = 8\nbranch_width = 8\n"
    random = trunk_digest(random_trunk_tensors(0))
    return write_study(path, tensors=kept, trunk=trunk or random, settings=sizes + settings), tensors


def test_a_real_model_is_built_and_holds_the_released_tensors(tmp_path):
    centre, initial = small_study(tmp_path / "study")
    site = join(tmp_path / "site", centre)
    _, release = install_release(site, release_model(centre, 2).path)
    found = check_release(site, release)
    assert (found.trunk, found.tensors_left_at_sites) == ("random", ())
    assert found.scalars == sum(tensor.size for tensor in initial.values())
    for name, tensor in trainable_tensors(load_model(release)).items():
        np.testing.assert_array_equal(tensor, initial[name] + np.float32(2))


def test_tensors_that_stay_at_the_hospitals_are_named_and_keep_their_starting_values(tmp_path):
    personal = '[strategy]\npersonal = ["head.*"]\n'
    centre, initial = small_study(tmp_path / "study", without="head.", settings=personal)
    release = release_model(centre, 2).release
    found = check_release(join(tmp_path / "site", centre), release)
    assert found.tensors_left_at_sites == tuple(sorted(name for name in initial if name.startswith("head.")))
    tensors = trainable_tensors(load_model(release))
    for name in found.tensors_left_at_sites:
        np.testing.assert_array_equal(tensors[name], initial[name])
    assert "head.* stayed at each hospital" in release.card_text.replace("\\", "")


def test_a_site_without_the_studys_trunk_is_told(tmp_path):
    centre, _ = small_study(tmp_path / "study", trunk="ab" * 32)
    with pytest.raises(WeightsError, match="needs the trunk ababab"):
        check_release(join(tmp_path / "site", centre), release_model(centre, 2).release)


def test_a_network_that_this_version_does_not_build_is_refused(tmp_path):
    centre = write_study(tmp_path / "study", trunk=trunk_digest(random_trunk_tensors(0)))
    with pytest.raises(SignatureError):
        check_release(join(tmp_path / "site", centre), release_model(centre, 2).release)


def test_the_commands_say_the_same_to_people_and_programs(tmp_path):
    centre, _ = small_study(tmp_path / "study")
    site, kept = join(tmp_path / "site", centre), release_model(centre, 2)
    here = ("--site", site.path)
    assert "No model is installed" in command("model", "list", *here)
    assert kept.release.digest in command("model", "verify", kept.path, *here)
    elsewhere = command("model", "verify", kept.path, "--ca", centre.ca / "ca.pem", "--json")
    assert json.loads(elsewhere)["digest"] == kept.release.digest
    assert f"model check {kept.release.name}" in command("model", "install", kept.path, *here)
    path = Path(json.loads(command("model", "install", kept.path, *here, "--json"))["path"])
    assert "verified" in command("model", "list", *here)
    checked = json.loads(command("model", "check", kept.release.name, *here, "--json"))
    figure = kept.release.card["evaluation"]["groups"]["all"]["figures"]["auc:osteoporosis"]
    assert checked["figures"]["held out, auc:osteoporosis"] == figure
    said = command("model", "check", kept.release.name, *here)
    for words in (
        "network works here",
        f"{figure['value']:.2f}",
        "No external validation",
        "no receipt here",
    ):
        assert words in said
    change(path)
    assert json.loads(command("model", "list", *here, "--json"))[0]["fault"]
    assert path.name in command("model", "check", kept.release.name, *here, expect=34)


def test_of_a_round_that_was_not_chosen_the_validation_figures_are_shown(tmp_path):
    centre, _ = small_study(tmp_path / "study")
    site = join(tmp_path / "site", centre)
    _, release = install_release(site, release_model(centre, 3).path)
    said = command("model", "check", release.name, "--site", site.path)
    assert "NOT the study's chosen model" in said
    assert "validation, auc" in said


def test_verifying_and_installing_load_no_torch():
    code = "import f2b_client.models, f2b_client.commands.models, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""A hospital approves a study exactly as written, and can take it back."""

from dataclasses import replace

import pytest

from f2b_client.approval import approve, approved_studies, approved_study, revoke
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import NotApprovedError, ProtocolError, SettingsError
from face2bone_model.contract.policy import Policy, PrivacyPolicy, ReleasePolicy
from face2bone_model.contract.study import load_study
from face2bone_model.report.study_words import plain_words

TEXT = """
name = "Bones"
question = "Can a face tell?"
sites = ["harbour", "hilltop"]
trunk_name = "random"
trunk_digest = "00"
[evaluation]
min_cell = 6
"""


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path / "site")


@pytest.fixture
def study_path(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_an_approved_study_is_found_by_its_hash(folder, study_path):
    approval = approve(folder, study_path, Policy())
    assert approved_study(folder, approval.study_hash) == load_study(study_path)
    assert approved_studies(folder) == (load_study(study_path),)


@pytest.mark.parametrize("wrong", ["a" * 64, "", "..", "../" * 21 + "a", "a" * 63, "A" * 64])
def test_any_other_hash_is_refused(folder, study_path, wrong):
    approve(folder, study_path, Policy())
    with pytest.raises(NotApprovedError, match="has not approved"):
        approved_study(folder, wrong)


def test_a_file_beside_the_approvals_cannot_be_reached_by_a_crafted_hash(folder, study_path):
    approve(folder, study_path, Policy())
    name = "/".join([".."] * 5) + "/" + "a" * 49
    assert len(name) == 64
    with pytest.raises(NotApprovedError):
        approved_study(folder, name)


def test_an_edited_approval_is_refused(folder, study_path):
    digest = approve(folder, study_path, Policy()).study_hash
    path = folder.approved / f"{digest}.toml"
    path.write_text(TEXT.replace("min_cell = 6", "min_cell = 1"), encoding="utf-8")
    with pytest.raises(NotApprovedError, match="changed after it was approved"):
        approved_study(folder, digest)


def test_a_comment_added_to_an_approval_changes_nothing(folder, study_path):
    digest = approve(folder, study_path, Policy()).study_hash
    path = folder.approved / f"{digest}.toml"
    path.write_text("# read by the ethics board\n" + TEXT, encoding="utf-8")
    assert approved_study(folder, digest).hash() == digest


def test_a_revoked_study_is_refused_from_then_on(folder, study_path):
    digest = approve(folder, study_path, Policy()).study_hash
    revoke(folder, digest)
    with pytest.raises(NotApprovedError):
        approved_study(folder, digest)
    with pytest.raises(NotApprovedError):
        revoke(folder, digest)


def test_a_study_that_cannot_be_read_is_not_approved(folder, study_path):
    study_path.write_text(TEXT + "surprise = 1", encoding="utf-8")
    with pytest.raises(SettingsError, match="surprise"):
        approve(folder, study_path, Policy())
    assert approved_studies(folder) == ()


def test_plain_words_name_the_stricter_terms(study_path):
    study = load_study(study_path)
    policy = Policy(
        privacy=PrivacyPolicy(require_dp=True, epsilon_limit=3.0, delta_limit=1e-6),
        release=ReleasePolicy(min_cell=11),
    )
    words = " ".join(plain_words(study, policy))
    assert "Hospitals invited: harbour, hilltop." in words
    assert "cell of 1 to 10 patients" in words
    assert "at most epsilon 3 at delta 1e-06" in words
    assert "NOT differentially private" not in words
    assert "cell of 1 to 5 patients" in " ".join(
        plain_words(study, Policy(release=ReleasePolicy(min_cell=2)))
    )


def test_plain_words_say_so_where_training_is_not_private(study_path):
    study = load_study(study_path)
    assert "NOT differentially private" in " ".join(plain_words(study, Policy()))
    private = replace(study, privacy=replace(study.privacy, required=True))
    assert "at most epsilon 8 " in " ".join(plain_words(private, Policy()))


def test_a_first_approval_has_nothing_to_compare_with(folder, study_path):
    assert approve(folder, study_path, Policy()).changes == ()
    assert approve(folder, study_path, Policy()).changes == ()


def test_a_changed_study_is_refused_until_it_is_approved_again_and_then_shows_what_changed(
    folder, study_path
):
    first = approve(folder, study_path, Policy())
    study_path.write_text(TEXT.replace("min_cell = 6", "min_cell = 2"), encoding="utf-8")
    changed = load_study(study_path)
    with pytest.raises(NotApprovedError):
        approved_study(folder, changed.hash())
    second = approve(folder, study_path, Policy())
    assert second.changes == ("[evaluation] min_cell: was 6, is 2 (tables with other small cells leave).",)
    assert approved_study(folder, first.study_hash).evaluation.min_cell == 6


def test_the_comparison_is_with_the_same_study_not_with_another(folder, study_path):
    approve(folder, study_path, Policy())
    study_path.write_text(TEXT.replace('"Bones"', '"Hips"'), encoding="utf-8")
    assert approve(folder, study_path, Policy()).changes == ()


def test_a_study_of_another_protocol_is_not_approved(folder, study_path):
    study_path.write_text("protocol = 99\n" + TEXT, encoding="utf-8")
    with pytest.raises(ProtocolError, match="99"):
        approve(folder, study_path, Policy())
    assert approved_studies(folder) == ()

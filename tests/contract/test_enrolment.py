"""A token says by itself which study, site and CA it belongs to, and forgives how it is typed."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.contract.enrolment import (
    ALPHABET,
    SECRET_LENGTH,
    TokenPlace,
    fits,
    new_token,
    proof_message,
    read_token,
    token_digest,
)
from face2bone_model.contract.errors import EnrolmentError

PLACE = TokenPlace(study_hash="a" * 64, site="harbour", ca=b"CA one")
OTHERS = {"study_hash": "b" * 64, "site": "hilltop", "ca": b"CA two"}


def test_a_token_is_six_groups_of_four_and_no_two_are_alike():
    tokens = {new_token(PLACE) for _ in range(200)}
    assert len(tokens) == 200
    assert all(re.fullmatch(f"([{ALPHABET}]{{4}}-){{5}}[{ALPHABET}]{{4}}", token) for token in tokens)


def test_every_character_of_the_secret_part_varies():
    secrets = [read_token(new_token(PLACE))[:SECRET_LENGTH] for _ in range(300)]
    assert all(len(set(column)) > 25 for column in zip(*secrets, strict=True))


@given(st.sampled_from([str.lower, str.upper, lambda t: t.replace("-", " "), lambda t: f" {t}\n",
                        lambda t: t.replace("0", "O").replace("1", "l")]))  # fmt: skip
def test_a_token_is_read_however_it_is_typed(typed):
    token = new_token(PLACE)
    assert read_token(typed(token)) == token.replace("-", "")


@pytest.mark.parametrize("text", ["", "ABCD", "U" * 24, "A" * 25, "ä" * 24, "0000-0000-0000-0000-0000-000!"])
def test_what_is_no_token_is_named(text):
    with pytest.raises(EnrolmentError, match="six groups of four"):
        read_token(text)


@pytest.mark.parametrize("field", OTHERS)
def test_a_token_fits_its_own_study_site_and_ca_only(field):
    token = read_token(new_token(PLACE))
    other = dataclasses.replace(PLACE, **{field: OTHERS[field]})
    assert fits(token, PLACE)
    assert not fits(token, other)
    assert proof_message(token, PLACE) != proof_message(token, other)


@given(st.integers(0, 23), st.sampled_from(ALPHABET))
def test_one_wrong_character_anywhere_is_noticed(where, character):
    token = read_token(new_token(PLACE))
    typed = token[:where] + character + token[where + 1 :]
    assert fits(typed, PLACE) == (typed == token)


def test_fields_cannot_run_into_one_another():
    one = TokenPlace(study_hash="ab", site="c", ca=b"")
    two = TokenPlace(study_hash="a", site="bc", ca=b"")
    assert one.digest() != two.digest()


def test_what_is_kept_and_what_is_signed_differ_and_do_not_hold_the_token():
    token = read_token(new_token(PLACE))
    assert token_digest(token).encode() in proof_message(token, PLACE)
    assert token.encode() not in proof_message(token, PLACE)

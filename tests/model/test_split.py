"""Splits are by patient, stratified, the same everywhere, and stable as the cohort grows."""

import hashlib
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.contract.keys import Split
from face2bone_model.data.site_settings import SplitSettings
from face2bone_model.data.split import assign_splits

SHARES = SplitSettings().shares
STRATA = ("normal female", "osteopenia male", "osteoporosis female")

cohorts = st.dictionaries(st.text(min_size=1, max_size=6), st.sampled_from(STRATA), max_size=60)
share_triples = (
    st.tuples(*3 * [st.integers(0, 20)])
    .filter(any)
    .map(lambda parts: {split: Fraction(part, sum(parts)) for split, part in zip(Split, parts, strict=True)})
)


def split(strata, shares=SHARES, **more):
    return assign_splits(strata, shares, salt="harbour", **more)


def counts(strata, splits, stratum):
    return Counter(splits[patient] for patient, own in strata.items() if own == stratum)


@given(cohorts)
def test_every_patient_is_in_exactly_one_split(strata):
    splits = split(strata)
    assert list(splits) == list(strata)
    assert all(isinstance(value, Split) for value in splits.values())


@given(cohorts, st.randoms())
def test_the_order_of_patients_does_not_matter(strata, random):
    shuffled = list(strata.items())
    random.shuffle(shuffled)
    assert split(dict(shuffled)) == split(strata)


@given(cohorts, share_triples)
def test_each_stratum_has_its_share_to_within_one_patient(strata, shares):
    splits = split(strata, shares)
    for stratum in STRATA:
        held = counts(strata, splits, stratum)
        total = held.total()
        assert all(abs(held[name] - shares[name] * total) <= 1 for name in Split)


@given(cohorts, st.text(min_size=1, max_size=6), st.sampled_from(STRATA))
def test_without_a_memory_one_more_patient_moves_at_most_two_of_its_stratum(strata, newcomer, stratum):
    before = split({patient: own for patient, own in strata.items() if patient != newcomer})
    grown = {**strata, newcomer: stratum}
    after = split(grown)
    moved = [patient for patient in before if before[patient] is not after[patient]]
    assert len(moved) <= 2
    assert all(grown[patient] == stratum for patient in moved)


@given(cohorts, st.lists(cohorts, max_size=4), share_triples)
def test_a_patient_stays_in_its_split_when_others_are_added(strata, additions, shares):
    cohort, splits = dict(strata), split(strata, shares)
    for addition in additions:
        cohort = {**addition, **cohort}
        grown = split(cohort, shares, previous=splits)
        assert {patient: grown[patient] for patient in splits} == splits
        splits = grown
        for stratum in STRATA:
            held = counts(cohort, splits, stratum)
            surplus = [held[name] - shares[name] * held.total() for name in Split]
            assert max(surplus) <= 1
            assert min(surplus) > -2


@given(st.integers(1, 80))
def test_patients_added_one_by_one_keep_the_shares(total):
    splits = {}
    for number in range(total):
        splits = split(dict.fromkeys([*splits, f"P{number}"], "normal female"), previous=splits)
    held = Counter(splits.values())
    assert all(-2 < held[name] - SHARES[name] * total <= 1 for name in Split)


def test_a_patient_whose_class_was_corrected_keeps_its_split():
    before = split({"A": STRATA[0], "B": STRATA[0]})
    assert split({"A": STRATA[1], "B": STRATA[0]}, previous=before) == before


def test_patients_who_left_are_forgotten():
    strata = {f"P{number}": STRATA[0] for number in range(10)}
    assert split(strata, previous={"gone": Split.TEST}) == split(strata)


def test_another_salt_gives_an_unrelated_assignment():
    strata = {f"P{number}": STRATA[0] for number in range(1000)}
    one, other = (assign_splits(strata, SHARES, salt=salt) for salt in ("harbour", "hill"))
    same = sum(one[patient] is other[patient] for patient in strata)
    expected = sum(float(share) ** 2 for share in SHARES.values()) * 1000
    assert abs(same - expected) < 5 * (expected * 0.6) ** 0.5


def test_the_order_inside_a_stratum_is_the_keyed_hash_of_the_id():
    strata = {f"P{number}": STRATA[0] for number in range(20)}
    key = hashlib.sha256(b"harbour").digest()
    ordered = sorted(strata, key=lambda patient: hashlib.blake2b(patient.encode(), key=key).digest())
    splits = split(strata)
    assert [splits[patient] for patient in ordered] == [Split.TEST] * 5 + [Split.VALIDATION] * 3 + [
        Split.TRAIN
    ] * 12


@pytest.mark.parametrize("shares", [(0.6, 0.2, 0.3), (1.2, -0.2, 0.0)])
def test_shares_that_do_not_add_up_are_refused(shares):
    with pytest.raises(ValueError, match="add up to 1"):
        SplitSettings(train=shares[0], validation=shares[1], test=shares[2])

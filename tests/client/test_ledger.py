"""The ledger adds up over everything, for ever, and refuses before it is overdrawn."""

import math
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant

from f2b_client.ledger import Ledger
from face2bone_model.contract.errors import BudgetError
from face2bone_model.training.privacy import DpSegment

DELTA = 1e-5
SEGMENT = DpSegment(noise_multiplier=2.0, sample_rate=0.2, steps=4)


def charge(ledger, segment=SEGMENT, *, limit=100.0, study="a" * 64, number=1):
    return ledger.charge(segment, study_hash=study, round_number=number, limit=limit, delta=DELTA)


def reference(segments):
    accountant = RDPAccountant()
    accountant.history = [(s.noise_multiplier, s.sample_rate, s.steps) for s in segments]
    return accountant.get_epsilon(DELTA)


def test_a_new_ledger_has_spent_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", "harbour")
    assert ledger.segments() == ()
    assert ledger.spent(DELTA) == 0


def test_charges_add_up_as_opacus_composes_them(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", "harbour")
    segments = [SEGMENT, DpSegment(noise_multiplier=1.5, sample_rate=0.1, steps=8), SEGMENT]
    after = [charge(ledger, segment) for segment in segments]
    for count, epsilon in enumerate(after, start=1):
        assert epsilon == pytest.approx(reference(segments[:count]), rel=0.01)
    assert ledger.spent(DELTA) == after[-1]


def test_charges_add_up_over_restarts_studies_and_rounds_asked_twice(tmp_path):
    path = tmp_path / "ledger.db"
    for study, number in (("a" * 64, 1), ("a" * 64, 1), ("b" * 64, 1)):
        charge(Ledger(path, "harbour"), study=study, number=number)
    assert Ledger(path, "harbour").segments() == (SEGMENT,) * 3
    assert Ledger(path, "harbour").spent(DELTA) == pytest.approx(reference([SEGMENT] * 3), rel=0.01)


def test_what_one_study_spent_is_known_beside_what_all_spent(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", "harbour")
    charge(ledger, study="a" * 64)
    charge(ledger, study="b" * 64)
    assert ledger.segments("a" * 64) == (SEGMENT,)
    assert ledger.spent(DELTA, "a" * 64) < ledger.spent(DELTA)
    assert ledger.spent(DELTA, "c" * 64) == 0


def test_another_cohort_has_a_budget_of_its_own(tmp_path):
    path = tmp_path / "ledger.db"
    charge(Ledger(path, "harbour"))
    assert Ledger(path, "hilltop").spent(DELTA) == 0


def test_past_the_limit_it_refuses_by_number_and_charges_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", "harbour")
    first = charge(ledger)
    with pytest.raises(BudgetError, match="cohort 'harbour'") as caught:
        charge(ledger, limit=first * 1.01)
    assert caught.value.code == 31
    assert ledger.spent(DELTA) == first
    assert len(ledger.segments()) == 1
    with pytest.raises(BudgetError):
        charge(Ledger(ledger.path, "harbour"), limit=first * 1.01)


def test_checking_costs_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", "harbour")
    assert ledger.check(SEGMENT, limit=100, delta=DELTA) > 0
    assert not ledger.path.exists()


def test_training_without_noise_is_never_covered(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", "harbour")
    silent = DpSegment(noise_multiplier=0.0, sample_rate=0.2, steps=1)
    with pytest.raises(BudgetError):
        charge(ledger, silent, limit=1e300)


def test_a_limit_that_is_not_a_number_covers_nothing(tmp_path):
    with pytest.raises(BudgetError):
        charge(Ledger(tmp_path / "ledger.db", "harbour"), limit=math.nan)


def test_two_processes_cannot_spend_the_same_budget(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", "harbour")
    limit = charge(ledger) + 1e-9
    limit = ledger.check(SEGMENT, limit=100, delta=DELTA) + 1e-9  # room for exactly one more
    ready, outcomes = threading.Barrier(6), []

    def spend():
        ready.wait()
        try:
            charge(Ledger(ledger.path, "harbour"), limit=limit)
            outcomes.append("charged")
        except BudgetError:
            outcomes.append("refused")

    threads = [threading.Thread(target=spend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["charged"] + ["refused"] * 5
    assert ledger.spent(DELTA) <= limit


STEPS = st.tuples(st.sampled_from([1.0, 2.0]), st.sampled_from([0.1, 0.5]), st.integers(1, 4))


@given(steps=st.lists(STEPS, min_size=1, max_size=6), limit=st.sampled_from([2.0, 5.0]))
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
def test_spending_never_goes_down_and_never_past_the_limit(tmp_path_factory, steps, limit):
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    last = 0.0
    for noise, rate, count in steps:
        segment = DpSegment(noise_multiplier=noise, sample_rate=rate, steps=count)
        try:
            charge(Ledger(path, "harbour"), segment, limit=limit)
        except BudgetError:
            assert Ledger(path, "harbour").spent(DELTA) == last
        now = Ledger(path, "harbour").spent(DELTA)
        assert last <= now <= limit
        last = now

"""A coordinator that wishes ill, against a site that is prepared and has approved its study: a number, never more."""

import pickle
import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hospital import approve_study, equip, study_text
from hostile import Site, a_request, altered, impermissible, initial, malformed, small_cells

from f2b_client.approval import revoke
from f2b_client.ledger import Ledger
from f2b_client.work import SiteWork
from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.payload import digest
from face2bone_model.contract.reply import ErrorReply
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import Study
from face2bone_model.contract.update import Update

LONGEST_SECONDS = 3.0
MOST_MEMORY_KIB = 400_000


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, template):
    """A real site with a small cohort, and nothing approved."""
    return template.copy_to(tmp_path_factory.mktemp("hostile"))[0]


def open_site(path, trunk, **terms) -> Site:
    folder = equip(path)
    study = approve_study(folder, study_text(trunk.digest, **terms))
    return Site(folder, SiteWork(folder, lambda *_: None), study)


@pytest.fixture(scope="module")
def site(prepared, trunk):
    return open_site(prepared, trunk)


@pytest.fixture
def fresh(template, trunk, tmp_path):
    """A site that has answered nothing yet; the caller chooses the study's terms."""
    return lambda **terms: open_site(template.copy_to(tmp_path / "ward")[0], trunk, **terms)


PLACEHOLDER = Study(name="", question="", sites=(), trunk_name="", trunk_digest="")
MALFORMED = sorted(malformed(Path("unused")))
IMPERMISSIBLE = sorted(impermissible(PLACEHOLDER))


@pytest.fixture(scope="module")
def bait(tmp_path_factory):
    """The malformed payloads, and the file that one of them would make where it is executed."""
    marker = tmp_path_factory.mktemp("bait") / "marker"
    return malformed(marker), marker


@pytest.fixture(scope="module")
def wishes(site):
    """The impermissible requests with their numbers."""
    return impermissible(site.study)


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_gets_number_23_quickly_and_executes_nothing(site, bait, name):
    payloads, marker = bait
    payload = payloads[name]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert site.refuses(payload) == 23
    assert time.monotonic() - began < LONGEST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY_KIB
    assert not marker.exists()


@pytest.mark.parametrize("name", IMPERMISSIBLE)
def test_what_the_study_does_not_permit_gets_its_number(site, wishes, name):
    payload, number = wishes[name]
    assert site.refuses(payload) == number


def test_unpickling_one_of_these_payloads_would_have_left_its_mark(tmp_path):
    """The bait is real: what is never done here does make the file."""
    marker = tmp_path / "marker"
    pickle.loads(malformed(marker)["a pickle"])  # noqa: S301  # the point of the test
    assert marker.exists()


@pytest.mark.parametrize("value", [1e38, -1e38, 1e20, 1e-45])
@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.EVALUATE])
def test_a_model_of_absurd_numbers_gets_a_number_or_tables_without_a_small_cell(site, value, phase):
    vector = np.full_like(initial(site.study), value)
    reply = site.ask(a_request(site.study, phase, 1, vector=vector).encode())
    if isinstance(reply, ErrorReply):
        assert reply.code in {23, 30, 99}
    else:
        assert small_cells(reply) == []


def test_only_the_study_that_was_approved_is_answered_and_only_as_long_as_it_is(fresh):
    site = fresh()
    describe = a_request(site.study, Phase.DESCRIBE, 0)
    assert isinstance(site.ask(describe.encode()), SiteStatistics)
    revoke(site.folder, site.study.hash())
    assert site.refuses(describe.encode()) == 20  # not even what left before leaves again


MANY = pytest.mark.parametrize("times", [50, pytest.param(1000, marks=pytest.mark.slow)])


@MANY
def test_the_same_question_again_and_again_gets_the_same_bytes_and_costs_once(fresh, times):
    site = fresh(private=True)
    payload = a_request(site.study, Phase.TRAIN, 1).encode()
    replies = {site.work.answer(payload).payload for _ in range(times)}
    assert len(replies) == 1
    assert len(Ledger(site.folder.ledger, "harbour").segments()) == 1
    assert Counter(one.kind for one in site.receipts) == {"update": 1, "repeat": times - 1}


@MANY
def test_rounds_without_end_are_refused_after_the_last_of_the_study(fresh, times):
    site = fresh()
    first = a_request(site.study, Phase.TRAIN, 1)
    answers = Counter(
        len(site.work.answer(altered(first, round=number)).payload) > 1000 for number in range(1, times + 1)
    )
    assert answers == {True: site.study.training.rounds, False: times - site.study.training.rounds}
    kinds = Counter(one.kind for one in site.receipts)
    assert kinds == {"update": site.study.training.rounds, "error 23": times - site.study.training.rounds}


def test_whatever_is_asked_the_budget_is_never_exceeded(fresh):
    """The same rounds with ever other models: each is another question, and each is charged until nothing is left."""
    site = fresh(private=True)
    limit = min(site.study.privacy.epsilon, 8.0)
    vector, codes = initial(site.study), []
    for step in range(25):
        other = vector + np.float32(step) * 1e-3
        reply = site.ask(a_request(site.study, Phase.TRAIN, 1 + step % 2, vector=other).encode())
        codes.append(reply.code if isinstance(reply, ErrorReply) else 0)
        if isinstance(reply, Update):
            assert reply.epsilon <= limit
    assert codes[-5:] in ([31] * 5, [23] * 5)
    assert Ledger(site.folder.ledger, "harbour").spent(site.study.privacy.delta) <= limit


def test_a_round_is_answered_for_one_model_only(fresh):
    """Else one round is a thousand: any number of crafted models, each answered with sums over the same patients."""
    site = fresh()
    vector, answered = initial(site.study), Counter()
    questions = [(Phase.TRAIN, Split.TEST), (Phase.EVALUATE, Split.TEST), (Phase.EVALUATE, Split.VALIDATION)]
    for step in range(5):
        other = vector + np.float32(step) * 1e-3
        for phase, split in questions:
            reply = site.ask(a_request(site.study, phase, 1, vector=other, split=split).encode())
            answered[phase, split] += not isinstance(reply, ErrorReply)
    assert set(answered.values()) == {1}


def test_a_coordinator_learns_from_a_refusal_only_its_number(site, wishes):
    """Refusals of one number differ in the digest of the question alone, whatever the reason at the site."""
    bodies = set()
    for name in ("a phase that exports", "a path to read from", "round one thousand", "a model with a NaN"):
        payload, _ = wishes[name]
        content = site.work.answer(payload).payload
        bodies.add(content.replace(digest(payload).encode(), b""))
    assert len(bodies) == 1


def test_a_hostile_name_in_a_header_is_neither_echoed_nor_written_as_a_path(site):
    word = "ZQ-ECHO-../../../tmp/zq"
    for field in ("study_hash", "signature_digest", "phase", "split"):
        payload = altered(a_request(site.study, Phase.TRAIN, 1), **{field: word})
        assert word.encode() not in site.work.answer(payload).payload
    assert not any("ZQ-ECHO" in str(path) for path in site.folder.path.rglob("*"))

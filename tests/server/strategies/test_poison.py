"""One poisoned site of four: what it moves, with the strategies the documents recommend and with those they do not.

Real training; the figures of docs/strategies.md come from here (`make test-slow` prints them).
"""

import sys

import pytest
from poison_lab import ATTACKS, SGD, Laboratory

BAR = 0.02
RECOMMENDED = {
    "trimmed_mean": {"name": "trimmed_mean"},
    "geometric_median": {"name": "geometric_median", "weights": "equal"},
}
OTHERS = {
    "fedavg, no screening": {"name": "fedavg", "longest_norm_ratio": 0.0},
    "fedavg": {"name": "fedavg"},
    "fedprox": {"name": "fedprox", "proximal_mu": 0.1},
    "fedavgm": {"name": "fedavgm"},
    "fedadam": {"name": "fedadam", "server_learning_rate": 0.01},
    "fedyogi": {"name": "fedyogi", "server_learning_rate": 0.01},
    "scaffold": {"name": "scaffold", "training": SGD},
    "krum": {"name": "krum"},
}


@pytest.fixture(scope="module")
def lab():
    return Laboratory()


@pytest.mark.parametrize("strategy", RECOMMENDED)
@pytest.mark.parametrize("attack", ATTACKS)
def test_one_poisoned_site_of_four_moves_the_pooled_auc_by_less_than_two_hundredths(lab, strategy, attack):
    settings = RECOMMENDED[strategy]
    assert lab.auc(**settings) > 0.88  # there is something to lose
    assert abs(lab.change(attack, **settings)) < BAR


def test_screening_alone_does_not_save_the_average_from_a_step_of_ordinary_length(lab):
    assert lab.change("sign-flipped x4", name="fedavg") < -BAR


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_table_of_the_documents(lab, capsys):
    for name, settings in {**OTHERS, **RECOMMENDED}.items():
        changes = [lab.change(attack, **settings) for attack in ATTACKS]
        words = " | ".join(f"{change:+.3f}" for change in changes)
        with capsys.disabled():
            sys.stdout.write(f"\n| {name} | {lab.auc(**settings):.3f} | {words} |")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("draw", [1, 2])
@pytest.mark.parametrize("strategy", RECOMMENDED)
def test_so_it_is_for_other_patients(strategy, draw):
    laboratory = Laboratory(draw)
    changes = {attack: laboratory.change(attack, **RECOMMENDED[strategy]) for attack in ATTACKS}
    assert max(map(abs, changes.values())) < BAR, changes

"""One-run privacy auditing (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846).

`m` canaries are each put into training by a fair coin. Whoever sees the result guesses the coins of those it is surest
of. A mechanism that is (epsilon, delta)-private lets nobody guess too well, so many correct guesses bound epsilon from
below, from a single run.
"""

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95


def correct_guesses(scores, included, guesses):
    """How many of `guesses` coins are guessed correctly: the highest half of scores "in", the lowest half "out".

    Args:
        scores: one a canary, (m,); higher means more likely included.
        included: the coins, (m,) bool.
        guesses: an even number, chosen before looking.
    """
    order = np.argsort(scores)
    half = guesses // 2
    return int(np.sum(~included[order[:half]]) + np.sum(included[order[-half:]]))


def chance_of_as_many(correct, guesses, canaries, epsilon, delta):
    """Upper bound on the chance of `correct` or more under (epsilon, delta): theorem 5.2 of the paper.

    With delta = 0 the number of correct guesses is at most a Binomial(guesses, e^eps / (1 + e^eps)). Delta adds
    2 m delta times the largest, over i, of P[correct - i <= binomial < correct] / i.
    """
    share = 1.0 / (1.0 + np.exp(-epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, share))
    just_below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, share))
    slack = float(np.max(just_below / np.arange(1, correct + 1), initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * slack)


def epsilon_lower_bound(correct, guesses, canaries, delta):
    """The largest epsilon that so many correct guesses contradict at 95 % confidence; 0 if none."""

    def excess(epsilon):
        return chance_of_as_many(correct, guesses, canaries, epsilon, delta) - (1 - CONFIDENCE)

    if excess(0.0) > 0:
        return 0.0
    return float(optimize.brentq(excess, 0.0, 50.0))

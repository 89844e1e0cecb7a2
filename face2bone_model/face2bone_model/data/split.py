"""Which patients train, validate and test: by patient, stratified, and stable as the cohort grows.

What is guaranteed:
    - The result depends on the patients' ids, strata and shares, the salt and `previous`; not on order, time
      or machine.
    - A patient in `previous` never moves, even if her stratum changes.
    - Without `previous`, a stratum of n patients gives each split its share of n to within one patient;
      adding one patient moves at most two others. Stratified shares and complete stability exclude each other
      without a memory: keep the result and hand it back as `previous`.
    - With `previous` handed back each time (same shares, no stratum changed), no split of a stratum ever
      holds more than one patient above its share; the shortfall of another stays below two.
"""

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor

from face2bone_model.contract.keys import Split

_FILL_ORDER = (Split.TEST, Split.VALIDATION, Split.TRAIN)
_HALF = Fraction(1, 2)


def assign_splits(
    strata: Mapping[str, str],
    shares: Mapping[Split, Fraction],
    *,
    salt: str,
    previous: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Assign each patient to one split.

    Inside a stratum patients stand in the order of a keyed hash of their ids, which is as good as random and
    the same everywhere; splits are consecutive runs of that order.

    Args:
        strata: patient id to stratum, such as class and sex.
        shares: of each split; they add up to 1.
        salt: study or site; another salt gives an unrelated assignment.
        previous: assignments that must stay. Patients in it but not in `strata` are ignored.
    """
    kept = {patient: split for patient, split in (previous or {}).items() if patient in strata}
    assigned = dict(kept)
    for stratum in sorted(set(strata.values())):
        members = [patient for patient, own in strata.items() if own == stratum]
        newcomers = sorted(
            (m for m in members if m not in kept), key=lambda patient: (_rank(patient, salt), patient)
        )
        held = [kept[member] for member in members if member in kept]
        assigned |= _fill(newcomers, held, shares)
    return {patient: assigned[patient] for patient in strata}


def _rank(patient: str, salt: str) -> bytes:
    key = hashlib.sha256(salt.encode()).digest()
    return hashlib.blake2b(patient.encode(), key=key).digest()


def _fill(
    newcomers: Sequence[str], held: Sequence[Split], shares: Mapping[Split, Fraction]
) -> dict[str, Split]:
    """Give newcomers to the splits that fall short, in proportion: cut points are rounded cumulated shares."""
    total = len(newcomers) + len(held)
    wanted = {split: max(Fraction(0), shares[split] * total - held.count(split)) for split in _FILL_ORDER}
    scale = Fraction(len(newcomers)) / sum(wanted.values()) if newcomers else Fraction(0)
    assigned: dict[str, Split] = {}
    upto, start = Fraction(0), 0
    for split in _FILL_ORDER:
        upto += wanted[split] * scale
        end = floor(upto + _HALF)
        assigned |= dict.fromkeys(newcomers[start:end], split)
        start = end
    return assigned

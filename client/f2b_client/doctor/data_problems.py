"""Findings from what reading the export and the photo folder already noted, sorted by what is wrong.

The sentences are those of `face2bone_model.data`; each kind is pinned by a test that seeds it in a real export, and
what no kind recognises is shown as `other-rows`, so that nothing is lost.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from re import Pattern

from f2b_client.doctor.data_facts import SiteFacts, by_share, known_patients, patients, places
from f2b_client.doctor.finding import Finding, Verdict
from f2b_client.doctor.outcome import failed, passed, warned
from face2bone_model.contract.errors import CohortError, Face2BoneError, SettingsError
from face2bone_model.data.manifest import Manifest
from face2bone_model.data.problem import Problem, Reason

_NOTHING_TO_DO = "Nothing to do."


@dataclass(frozen=True)
class _Kind:
    """One thing that can be wrong with rows, and the sentence that tells it."""

    check: str
    sentence: Pattern[str]
    says: str
    """After the number of rows, such as ``rows give a date or a year as age``."""
    always_fail: bool = False


def _kind(check: str, sentence: str, says: str, *, always_fail: bool = False) -> _Kind:
    return _Kind(check, re.compile(sentence), says, always_fail)


_DATE_OR_YEAR = r"^Age is '\s*(?:(?:18|19|20)\d\d\s*'|\d{1,4}[-./]\d{1,2}[-./]\d{1,4})"

ROW_KINDS: tuple[_Kind, ...] = (
    _kind("age-is-a-date", _DATE_OR_YEAR, "with a date or a year as age"),
    _kind("age-range", r"^Age is '", "with an age that is none"),
    _kind("t-score-in-g-cm2", r"is a bone density", "with a density in g/cm2 as score"),
    _kind("t-equals-bmd", r"equals the density of the same row", "whose T-score equals the density"),
    _kind("t-score-range", r"(?:score|Score)[^,]* is .*, outside -8", "with a score no patient has"),
    _kind("score-unit", r"is given in '", "with a score in a unit"),
    _kind("mixed-decimal-signs", r"numbers are written with", "with the other decimal sign"),
    _kind("not-a-number", r"which is not a number", "with a text where a number belongs"),
    _kind("sex-codes", r"^Sex is '.*does not list", "whose sex code is not listed"),
    _kind("menopause-codes", r"^Menopause is '.*does not list", "whose menopause code is not listed"),
    _kind("side-codes", r"^Side is '.*does not list", "whose side code is not listed"),
    _kind("date-format", r"does not follow", "with a date in another format"),
    _kind("date-order", r"give an age of", "whose birth date and scan date do not fit"),
    _kind("body-size-units", r"^(?:Height|Weight|BMI) is ", "with a body size in another unit"),
    _kind("body-size-contradicts", r"BMI is taken as not known", "whose body size contradicts another row"),
    _kind("cut-off-rows", r"cells, the heading has", "with too few or too many cells"),
    _kind("no-patient-id", r"names no patient", "without a patient"),
    _kind("duplicate-rows", r"the row repeats", "repeating another row"),
    _kind("undated-rows", r"has no scan date, others have", "without scan date"),
    _kind("unknown-regions", r"^Region '.*is not known", "with a region name that is not known"),
    _kind("two-people-one-id", r": (?:sex|age|menopause) .*contradicts", "with a second sex or age for a patient"),
    _kind("scores-contradict", r"T-score .*contradicts", "with a second T-score for one region"),
    _kind(
        "photo-of-two-patients", r"stands under patients|filed for more than one", "filed under two patients",
        always_fail=True,
    ),
    _kind("photo-not-in-export", r"is not in .*; the photo is not used", "of patients whom the export does not have"),
    _kind("photo-names", r"whose photo it is is not known", "whose name does not tell the patient"),
    _kind("photo-files", r"are not read\.$|^The file cannot be read", "not read"),
)  # fmt: skip
"""In this order: the first that fits is taken."""

_OTHER = _Kind("other-rows", re.compile(""), "not used, or used with a note")
_HIPS = _Kind("hip-sides", re.compile("two hips"), "with a left and a right hip that cannot be told apart")
_ZEROS = _Kind(
    "patient-ids-altered",
    re.compile("patients are matched exactly"),
    "whose patient the export writes otherwise, for example without leading zeros",
)
_BY_MEND = (_HIPS, _ZEROS)
"""Kinds that the mend tells."""

_PHOTO_KINDS = {"photo-of-two-patients", "photo-not-in-export", "photo-names", "photo-files", _ZEROS.check}

WHOLE_KINDS: tuple[tuple[str, Pattern[str]], ...] = tuple(
    (check, re.compile(sentence))
    for check, sentence in (
        ("splits", r"splits\.json is damaged"),
        ("photo-folder", r"photo folder"),
        ("export-missing", r"does not exist; the folder holds"),
        ("export-encoding", r"is not written in|is written in UTF-16"),
        ("export-delimiter", r"are separated by"),
        ("export-columns", r"has no column|two columns headed|does not name a column|has no meaning in"),
        ("export-decimal-sign", r"writes numbers with"),
        ("bmd-in-t-column", r"as densities in g/cm2 do"),
        ("export-empty", r"is empty|holds no usable row"),
    )
)


def check_readable(facts: SiteFacts) -> Iterator[Finding]:
    """Say what could not be read as a whole: export, photo folder, preparation."""
    for error in facts.errors:
        yield _whole(error)
    if facts.manifest is not None:
        known = patients(known_patients(facts.manifest))
        yield passed("export", f"{facts.export_name} can be read; it has {known}.", facts.export_name)


def _whole(error: Face2BoneError) -> Finding:
    if isinstance(error, CohortError):
        return warned("prepared", error.what, "cache/", error.mend or "Run `f2b-client prepare`.")
    found = (check for check, sentence in WHOLE_KINDS if sentence.search(error.what))
    default = "site-settings" if isinstance(error, SettingsError) else "export"
    mend = error.mend or "Mend the file; docs/hospital-guide.md explains each line."
    return failed(next(found, default), error.what, "site.toml and the files it names", mend)


def check_rows(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """One finding a kind, with the number of rows or photos, the first places, and the first's mend."""
    by_kind: dict[_Kind, list[Problem]] = {}
    for problem in _problems(facts, manifest):
        by_kind.setdefault(_kind_of(problem), []).append(problem)
    for kind, problems in by_kind.items():
        yield _finding(kind, problems, _all_of(kind, facts, manifest))
    if not by_kind:
        yield passed("rows", "Every row and every photo's name can be used.", facts.export_name)


def _problems(facts: SiteFacts, manifest: Manifest) -> Iterable[Problem]:
    """What a person can mend. Patients left out for another reason than contradiction have checks of their own."""
    contradicting = (item.problem for item in manifest.left_out if item.reason is Reason.CONTRADICTING)
    seen = facts.prepared.cohort.problems if facts.prepared else ()
    for problem in (*manifest.problems, *contradicting, *seen):
        if not problem.mend.startswith(_NOTHING_TO_DO):
            yield problem


def _kind_of(problem: Problem) -> _Kind:
    by_mend = (kind for kind in _BY_MEND if kind.sentence.search(problem.mend))
    by_sentence = (kind for kind in ROW_KINDS if kind.sentence.search(problem.what))
    return next(by_mend, None) or next(by_sentence, _OTHER)


def _finding(kind: _Kind, problems: Sequence[Problem], of: int) -> Finding:
    count, first = len({problem.where for problem in problems}), problems[0]
    noun = "photo" if kind.check in _PHOTO_KINDS else "row"
    return Finding(
        check=kind.check,
        verdict=Verdict.FAIL if kind.always_fail else by_share(count, of),
        what=f"{count} {noun}{'' if count == 1 else 's'} {kind.says}. The first: {first.what}",
        where=places([problem.where for problem in problems]),
        mend=first.mend,
    )


def _all_of(kind: _Kind, facts: SiteFacts, manifest: Manifest) -> int:
    """How many photos or patients there are, to tell a slip from something systematic."""
    if kind.check in _PHOTO_KINDS:
        return sum(map(len, facts.photos.values()))
    return known_patients(manifest)

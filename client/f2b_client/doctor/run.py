"""Run the doctor's checks, group by group; one that breaks or hangs is itself a finding and stops nothing."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from f2b_client.doctor.deadline import NoAnswerError, within
from f2b_client.doctor.finding import Check, Finding, Verdict
from f2b_client.doctor.outcome import failed
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import Face2BoneError


class Group(StrEnum):
    """What a check is about."""

    NETWORK = "network"
    MACHINE = "machine"
    DATA = "data"
    STUDY = "study"


DEADLINES = {Group.NETWORK: 60.0, Group.MACHINE: 30.0, Group.DATA: 600.0, Group.STUDY: 300.0}
"""Seconds a single check may take. Of the network each step has its own, shorter one."""

Progress = Callable[[Group, str], None]
"""Told which check begins."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A finding and what it is about."""

    group: Group
    finding: Finding


def checks_of(group: Group) -> tuple[Check, ...]:
    """The checks of a group, imported when they are asked for."""
    match group:
        case Group.NETWORK:
            from f2b_client.doctor.network import NETWORK_CHECKS

            return NETWORK_CHECKS
        case Group.MACHINE:
            from f2b_client.doctor.machine import MACHINE_CHECKS

            return MACHINE_CHECKS
        case Group.DATA:
            from f2b_client.doctor.data import DATA_CHECKS

            return DATA_CHECKS
        case Group.STUDY:
            from f2b_client.doctor.study import STUDY_CHECKS

            return STUDY_CHECKS


def examine(folder: SiteFolder, groups: Sequence[Group], progress: Progress) -> tuple[Examined, ...]:
    """Run every check of these groups.

    Args:
        folder: the site's.
        groups: which, in this order.
        progress: called before each check.

    Returns:
        What was found, in the order of the checks.
    """
    found: list[Examined] = []
    for group in groups:
        for check in checks_of(group):
            progress(group, name_of(check))
            findings = run_check(check, folder, seconds=DEADLINES[group])
            found.extend(Examined(group=group, finding=finding) for finding in findings)
    return tuple(found)


def run_check(check: Check, folder: SiteFolder, *, seconds: float) -> list[Finding]:
    """What one check finds; what it had found before it broke or ran out of time is kept."""
    found: list[Finding] = []
    try:
        within(seconds, lambda: _collect(check(folder), found))
    except NoAnswerError:
        found.append(_not_finished(check, seconds))
    except Face2BoneError as error:
        found.append(failed(name_of(check), error.what, str(folder.path), error.mend))
    except Exception as error:  # noqa: BLE001  # a broken check must not stop the others
        found.append(_broken(check, error))
    return list(found)


def _collect(findings: Iterable[Finding], into: list[Finding]) -> None:
    for finding in findings:
        into.append(finding)  # one by one, so that those before a failure are kept


def worst(found: Iterable[Examined]) -> Verdict:
    """Fail before warn before pass."""
    verdicts = {one.finding.verdict for one in found}
    return next((one for one in (Verdict.FAIL, Verdict.WARN) if one in verdicts), Verdict.PASS)


def sentence(found: Sequence[Examined]) -> str:
    """Count verdicts in a sentence, such as "2 checks failed, 1 warned, 40 passed"."""
    count = {verdict: sum(one.finding.verdict is verdict for one in found) for verdict in Verdict}
    parts = [
        f"{count[verdict]} {word}"
        for verdict, word in ((Verdict.FAIL, "failed"), (Verdict.WARN, "warned"), (Verdict.PASS, "passed"))
        if count[verdict] or verdict is Verdict.PASS
    ]
    first, *rest = parts
    number, word = first.split()
    return ", ".join([f"{number} {'check' if number == '1' else 'checks'} {word}", *rest]) + "."


def changes(before: Sequence[Examined], after: Sequence[Examined]) -> list[str]:
    """What is no longer as it was, a line each, such as `network dns: fail → pass`."""
    old, new = _by_check(before), _by_check(after)
    return [
        f"{group} {check}: {old.get((group, check), 'new')} → {new.get((group, check), 'gone')}"
        for group, check in sorted({*old, *new})
        if old.get((group, check)) != new.get((group, check))
    ]


def name_of(check: Check) -> str:
    """A check's function as words."""
    name = str(getattr(check, "__name__", "check"))
    return name.removeprefix("check_").replace("_", " ")


def _by_check(found: Sequence[Examined]) -> dict[tuple[str, str], Verdict]:
    """The worst verdict of each check."""
    names = {(one.group.value, one.finding.check) for one in found}
    return {
        name: worst(one for one in found if (one.group.value, one.finding.check) == name) for name in names
    }


def _not_finished(check: Check, seconds: float) -> Finding:
    return failed(
        name_of(check),
        f"The check '{name_of(check)}' did not finish within {seconds:g} s.",
        "",
        "Look at the load of this machine, its disk and its network, and run the doctor again.",
    )


def _broken(check: Check, error: Exception) -> Finding:
    return failed(
        name_of(check),
        f"The check '{name_of(check)}' broke, a fault of ours: {type(error).__name__}: {error}",
        "",
        "Please report this. The other checks are not affected.",
    )

"""Every failure a person meets, as a numbered exception.

    Face2BoneError
    +-- UsageError            2   the command was called wrongly
    +-- InputError           10   a file, row or photo is not what it should be
    +-- WeightsError         11   pretrained weights are missing or not the ones expected
    +-- SettingsError        12   site.toml, policy.toml or study.toml cannot be used
    +-- NotApprovedError     20   the hospital has not approved this study
    +-- ProtocolError        21   the other side speaks another protocol version
    +-- SignatureError       22   the model or its trunk differs between site and study
    +-- RequestError         23   a request is malformed or not part of the approved study
    +-- EgressError          30   the gate refused to let something out
    +-- BudgetError          31   the privacy budget does not cover the next release
    +-- CohortError          32   too few patients to train or evaluate
    +-- RecordsError         33   receipts and ledger were changed, cut short, or do not agree
    +-- ReleaseError         34   a released model is not the centre's, or was changed
    +-- EnrolmentError       40   keys, certificates or the kit do not fit together
    +-- QuorumError          41   too few sites answered a round
    +-- DeadlineError        42   a wait reached its deadline
    +-- ProcessError         43   a process we started ended when it should not
    +-- DoctorWarningError   50   the doctor warned and found no failure
    +-- DoctorFailureError   51   the doctor found something that must be mended before round 0
    +-- UnexpectedError      99   a fault of ours

The number is the process's exit code and the only thing that leaves a hospital when a request fails: the
sentence stays at the site. Each number has a page, `docs/exit-codes/NN.md`.
"""

from typing import ClassVar


class Face2BoneError(Exception):
    """A failure with a number, a sentence saying what is wrong and where, and how to mend it."""

    code: ClassVar[int] = 99

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.what} {self.mend}".strip()


class UsageError(Face2BoneError):
    """The command was called wrongly."""

    code = 2


class InputError(Face2BoneError):
    """A file, row or photo is not what it should be."""

    code = 10


class WeightsError(Face2BoneError):
    """Pretrained weights are missing or not the ones expected."""

    code = 11


class SettingsError(Face2BoneError):
    """`site.toml`, `policy.toml` or `study.toml` cannot be used."""

    code = 12


class NotApprovedError(Face2BoneError):
    """The hospital has not approved this study."""

    code = 20


class ProtocolError(Face2BoneError):
    """The other side speaks another protocol version."""

    code = 21


class SignatureError(Face2BoneError):
    """The model or its trunk differs between site and study."""

    code = 22


class RequestError(Face2BoneError):
    """A request is malformed or not part of the approved study."""

    code = 23


class EgressError(Face2BoneError):
    """The gate refused to let something out."""

    code = 30


class BudgetError(Face2BoneError):
    """The privacy budget does not cover the next release."""

    code = 31


class CohortError(Face2BoneError):
    """Too few patients to train or evaluate."""

    code = 32


class RecordsError(Face2BoneError):
    """Receipts and ledger were changed, cut short, or do not agree."""

    code = 33


class ReleaseError(Face2BoneError):
    """A released model is not the centre's, or was changed."""

    code = 34


class EnrolmentError(Face2BoneError):
    """Keys, certificates or the kit do not fit together."""

    code = 40


class QuorumError(Face2BoneError):
    """Too few sites answered a round."""

    code = 41


class DeadlineError(Face2BoneError):
    """A wait reached its deadline."""

    code = 42


class ProcessError(Face2BoneError):
    """A process we started ended when it should not."""

    code = 43


class DoctorWarningError(Face2BoneError):
    """The doctor warned and found no failure."""

    code = 50


class DoctorFailureError(Face2BoneError):
    """The doctor found something that must be mended before round 0."""

    code = 51


class UnexpectedError(Face2BoneError):
    """A fault of ours."""

    code = 99


def error_types() -> dict[int, type[Face2BoneError]]:
    """Every numbered error by its number."""
    return {kind.code: kind for kind in Face2BoneError.__subclasses__()}

"""The site page: one hospital's own view of its cohort, its training, its privacy and what it sent. It stays there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from face2bone_model.contract.keys import CLASSES, Phase
from face2bone_model.data.problem import Problem
from face2bone_model.metrics.summary import DescriptionSummary, EvaluationSummary
from face2bone_model.report.evaluation_part import evaluation_context
from face2bone_model.report.figures_cohort import class_bars
from face2bone_model.report.figures_privacy import Charge, epsilon_curve
from face2bone_model.report.formats import count, decimal, epsilon, moment, power_of_ten, share, size
from face2bone_model.report.provenance import SITE_ONLY, Provenance, banners_of
from face2bone_model.report.render import render, write_page
from face2bone_model.report.tables import Cell, Column, Table

PAGE, RECORD = "site.html", "site.json"
PRIVATE_STEPS, NOT_LOOKED_AT = "noisy steps", "not looked at"
"""In place of epochs and loss of a private round: a loss on the patients would lie outside the accounting."""
TIGHTER = "Spent, by the tighter PLD accountant"
SHOWN_DIGEST = 16
"""Hexadecimal digits of a receipt's digest on the page; the JSON holds all 64."""

MOST_PROBLEMS = 200
SPLIT_NAMES: Mapping[str, str] = {"train": "training", "validation": "validation", "test": "held-out test"}


@dataclass(frozen=True, kw_only=True)
class FlowStep:
    """A step of the cohort flow: what is still in, and what was lost on the way to it."""

    what: str
    """Such as `patients in the DXA export`."""
    number: int
    lost: Mapping[str, int]
    """By reason, lost between the step before and this one; empty for the first."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What became of the photos."""

    photos: int
    usable: int
    quarantined: Mapping[str, int]
    """Photos by reason."""
    contact_sheet: str = ""
    """Path of the contact sheet relative to the page; empty when there is none."""


@dataclass(frozen=True, kw_only=True)
class LocalRound:
    """One round of training at this hospital."""

    number: int
    epochs: int
    """0 for a private round, which counts noisy steps."""
    train_loss: float
    """Mean loss of the last local epoch."""
    seconds: float
    epsilon_after: float
    """Privacy spent in all after this round; 0 without differential privacy."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The privacy account of this hospital's training patients."""

    private: bool
    epsilon_spent: float
    epsilon_budget: float
    delta: float
    noise_multiplier: float
    epsilon_pld: float = 0.0
    """The same spending by the tighter PLD accountant; 0 where nothing was spent."""
    charges: tuple[Charge, ...] = ()
    """Every charge, oldest first."""


@dataclass(frozen=True, kw_only=True)
class ReceiptLine:
    """One thing that left the hospital."""

    sent_at: datetime
    phase: Phase | None
    """None where the question could not be read."""
    round: int
    num_bytes: int
    digest: str
    """SHA-256 of the bytes, in hexadecimal."""
    refused: int = 0
    """Number of the error, which is all that left of a refusal; 0 for a reply."""


@dataclass(frozen=True, kw_only=True)
class SitePage:
    """Everything the site page shows."""

    provenance: Provenance
    site: str
    flow: tuple[FlowStep, ...]
    cohort: DescriptionSummary
    """This hospital's own, before suppression."""
    preparation: Preparation
    rounds: tuple[LocalRound, ...]
    evaluation: EvaluationSummary | None
    """The global model on this hospital's held-out patients, before suppression; None before that phase."""
    ledger: Ledger
    receipts: tuple[ReceiptLine, ...]
    problems: tuple[Problem, ...] = ()
    """Rows and photos that the hospital may mend."""


def write_site_page(page: SitePage, folder: Path) -> Path:
    """Write `site.html` and, beside it, `site.json` with the same figures; returns the path of the page."""
    html = render("site.html.j2", site_context(page))
    return write_page(folder / PAGE, html, folder / RECORD, kind="site", record=page)


def site_context(page: SitePage) -> dict[str, Any]:
    """What the template needs, in words, tables and figures."""
    evaluation = (
        {}
        if page.evaluation is None
        else evaluation_context(page.evaluation, where="this hospital", min_cell=page.provenance.min_cell)
    )
    return {
        "kind": "Site report",
        "site": page.site,
        "provenance": page.provenance,
        "written": moment(page.provenance.written_at),
        "banners": (SITE_ONLY, *banners_of(page.provenance)),
        "facts": _facts(page),
        "flow": [_flow_step(step) for step in page.flow],
        "problems": _problem_table(page.problems),
        "num_problems": count(len(page.problems)),
        "cohort_table": _cohort_table(page.cohort),
        "bars": class_bars("cohort-bars", page.cohort),
        "preparation": page.preparation,
        "photos": count(page.preparation.photos),
        "usable": f"{count(page.preparation.usable)}, {share(page.preparation.usable, page.preparation.photos)}",
        "quarantine": _quarantine_table(page.preparation),
        "rounds": _round_table(page.rounds),
        "ledger": _ledger_facts(page.ledger),
        "private": page.ledger.private,
        "privacy_curve": epsilon_curve("epsilon", page.ledger.charges, limit=page.ledger.epsilon_budget),
        "receipts": _receipt_table(page.receipts),
        "sent": size(sum(receipt.num_bytes for receipt in page.receipts)),
        "evaluated": page.evaluation is not None,
        "classes": CLASSES,
        **evaluation,
    }


def _facts(page: SitePage) -> Sequence[tuple[str, str]]:
    return (
        ("Hospital", page.site),
        ("Written", moment(page.provenance.written_at)),
        ("Patients in the study", count(page.flow[-1].number) if page.flow else "none"),
        ("Rounds trained", count(len(page.rounds))),
        ("Model", page.provenance.model),
        ("Software", f"face2bone {page.provenance.software_version}"),
    )


def _flow_step(step: FlowStep) -> Mapping[str, Any]:
    return {
        "what": step.what,
        "number": count(step.number),
        "lost": [(reason, count(number)) for reason, number in step.lost.items() if number],
        "lost_in_all": count(sum(step.lost.values())),
    }


def _problem_table(problems: Sequence[Problem]) -> Table:
    more = len(problems) - MOST_PROBLEMS
    rows: list[Sequence[Cell]] = [(entry.where, entry.what, entry.mend) for entry in problems[:MOST_PROBLEMS]]
    if more > 0:
        rows.append((f"and {count(more)} more", f"All are in {RECORD}.", ""))
    return Table(
        columns=(Column("Where"), Column("What was found"), Column("What to do")), rows=rows, wide=True
    )


def _cohort_table(cohort: DescriptionSummary) -> Table:
    splits = cohort.patients_by_split_and_class or {}
    rows = []
    for name, numbers in splits.items():
        total = sum(numbers.values())
        cells = (f"{count(numbers[label])} ({share(numbers[label], total)})" for label in CLASSES)
        rows.append((SPLIT_NAMES.get(name, name), *cells, count(total)))
    columns = [
        Column("Patients for"),
        *(Column(label.capitalize(), "number") for label in CLASSES),
        Column("All", "number"),
    ]
    return Table(
        title="Patients by split and class",
        caption="Number (share of the row).",
        columns=columns,
        rows=rows,
        wide=True,
    )


def _quarantine_table(preparation: Preparation) -> Table:
    by_number = sorted(preparation.quarantined.items(), key=lambda item: (-item[1], item[0]))
    return Table(
        title="Photos in quarantine",
        columns=(Column("Reason"), Column("Photos", "number"), Column("Of all photos", "number")),
        rows=[
            (reason.replace("_", " "), count(number), share(number, preparation.photos, 1))
            for reason, number in by_number
        ],
    )


def _round_table(rounds: Sequence[LocalRound]) -> Table:
    rows = [
        (
            str(entry.number),
            str(entry.epochs) if entry.epochs else PRIVATE_STEPS,
            decimal(entry.train_loss, 3) if entry.epochs else NOT_LOOKED_AT,
            f"{entry.seconds:.0f}\N{NO-BREAK SPACE}s",
            epsilon(entry.epsilon_after) if entry.epsilon_after > 0 else "",
        )
        for entry in rounds
    ]
    return Table(
        title="Training here, round by round",
        caption="Loss: mean over the last local epoch. Privacy: ε spent in all after the round.",
        columns=(
            Column("Round"),
            Column("Epochs", "number"),
            Column("Training loss", "number"),
            Column("Time", "number"),
            Column("Privacy spent", "number"),
        ),
        rows=rows,
    )


def _ledger_facts(ledger: Ledger) -> Sequence[tuple[str, str]]:
    left = max(0.0, ledger.epsilon_budget - ledger.epsilon_spent)
    tighter = ((TIGHTER, f"ε {epsilon(ledger.epsilon_pld)}"),) if ledger.epsilon_pld > 0 else ()
    return (
        ("Spent", f"ε {epsilon(ledger.epsilon_spent)}"),
        *tighter,
        ("Budget", f"ε {epsilon(ledger.epsilon_budget)}"),
        ("Left", f"ε {epsilon(left)}"),
        ("δ", power_of_ten(ledger.delta)),
        ("Noise multiplier", decimal(ledger.noise_multiplier)),
    )


def _receipt_table(receipts: Sequence[ReceiptLine]) -> Table:
    rows = [
        (
            moment(r.sent_at),
            _what_left(r),
            str(r.round) if r.phase is Phase.TRAIN else "",
            size(r.num_bytes),
            r.digest[:SHOWN_DIGEST],
        )
        for r in receipts
    ]
    total = ("All", f"{count(len(receipts))} replies", "", size(sum(r.num_bytes for r in receipts)), "")
    return Table(
        title="Receipts",
        caption="Every reply the gate released, in order. Digest: the first 16 digits of the SHA-256 of its bytes.",
        columns=(
            Column("When"),
            Column("Phase"),
            Column("Round", "number"),
            Column("Bytes", "number"),
            Column("Digest", "digest"),
        ),
        rows=[*rows, total] if rows else [],
        totals=1 if rows else 0,
        wide=True,
    )


def _what_left(receipt: ReceiptLine) -> str:
    phase = receipt.phase.value if receipt.phase else "unknown"
    return f"{phase}, refused (number {receipt.refused})" if receipt.refused else phase

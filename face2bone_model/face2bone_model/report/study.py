"""The study page: what all hospitals together learnt, for the coordinating centre and its readers.

Nothing on it is about one patient: it is made of pooled sums, site names and sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from face2bone_model.contract.keys import CLASSES, Phase
from face2bone_model.metrics.subgroup import ALL
from face2bone_model.metrics.summary import EvaluationSummary, ValidationSummary
from face2bone_model.report.evaluation_part import evaluation_context
from face2bone_model.report.figure import Figure
from face2bone_model.report.figures_training import RoundPoint, learning_curve
from face2bone_model.report.formats import count, epsilon, moment, power_of_ten, share, size
from face2bone_model.report.provenance import Provenance, banners_of
from face2bone_model.report.render import render, write_page
from face2bone_model.report.tables import Cell, Column, Table

PAGE, RECORD = "study.html", "study.json"
FULL_STATE_DICT_BYTES = 94_150_000
"""A whole InceptionResnetV1 with a three-class layer, all tensors: what each site would send without a frozen trunk."""
CONTENTS: Mapping[Phase, str] = {
    Phase.DESCRIBE: "Numbers of patients by split, class, sex and age band; numbers left out and in quarantine.",
    Phase.TRAIN: "The trained part of the network as one vector, the number of training patients, "
    "sums over the validation patients, the privacy spent.",
    Phase.EVALUATE: "Score histograms, confusion counts and calibration sums of the held-out patients, "
    "by sex and age band.",
}


PRIVACY_NOTE = (
    "Privacy: differential privacy of each training patient as ε and δ, smaller is more private; off: neither the "
    "hospital’s policy nor the study asked for it."
)


@dataclass(frozen=True, kw_only=True)
class StudyRound:
    """One round of training as the coordinator saw it."""

    number: int
    validation: ValidationSummary
    answered: tuple[str, ...]
    """Names of the sites whose update is in the round's average."""


@dataclass(frozen=True, kw_only=True)
class StudySite:
    """One hospital's share in the study."""

    name: str
    patients: Mapping[str, int] | None
    """By split, as released; None where the hospital withheld them."""
    private: bool
    """Whether it trained with differential privacy."""
    epsilon_spent: float
    epsilon_budget: float
    delta: float
    rounds_answered: int
    rounds_asked: int
    bytes_per_round: int
    """Of one reply in the training phase, on average."""
    bytes_total: int


@dataclass(frozen=True, kw_only=True)
class Departure:
    """What one hospital sent in one phase."""

    site: str
    phase: Phase
    num_messages: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A request that a site did not answer in time, or refused."""

    site: str
    phase: Phase
    round: int
    what: str
    """Such as `no answer within 600 s` or `error 31: the privacy budget does not cover the next release`."""


@dataclass(frozen=True, kw_only=True)
class StudyPage:
    """Everything the study page shows."""

    provenance: Provenance
    evaluation: EvaluationSummary
    """Of the chosen model on all sites' held-out patients, pooled."""
    rounds: tuple[StudyRound, ...]
    chosen_round: int | None
    sites: tuple[StudySite, ...]
    departures: tuple[Departure, ...]
    faults: tuple[Fault, ...]


def write_study_page(page: StudyPage, folder: Path) -> Path:
    """Write `study.html` and, beside it, `study.json` with the same figures; returns the path of the page."""
    html = render("study.html.j2", study_context(page))
    return write_page(folder / PAGE, html, folder / RECORD, kind="study", record=page)


def study_context(page: StudyPage) -> dict[str, Any]:
    """What the template needs, in words, tables and figures."""
    provenance = page.provenance
    return {
        "kind": "Study report",
        "provenance": provenance,
        "written": moment(provenance.written_at),
        "classes": CLASSES,
        "banners": banners_of(provenance),
        "facts": _facts(page),
        "curves": learning_curves(page.rounds, page.chosen_round),
        "chosen_round": page.chosen_round,
        "sites": _site_table(page.sites, provenance.min_cell),
        "smallest_share": _ratio(page.sites),
        "full_size": size(FULL_STATE_DICT_BYTES),
        "departures": _departure_table(page.departures),
        "departures_by_site": _departures_by_site(page.departures),
        "faults": _fault_table(page.faults),
        **evaluation_context(page.evaluation, where="all hospitals", min_cell=provenance.min_cell),
    }


def _facts(page: StudyPage) -> Sequence[tuple[str, str]]:
    held_out = page.evaluation.groups[ALL].n
    return (
        ("Written", moment(page.provenance.written_at)),
        ("Hospitals", count(len(page.sites))),
        ("Held-out patients", count(held_out)),
        ("Rounds", count(sum(entry.number > 0 for entry in page.rounds))),
        ("Model", page.provenance.model),
        ("Software", f"face2bone {page.provenance.software_version}"),
    )


def learning_curves(rounds: Sequence[StudyRound], chosen_round: int | None) -> Sequence[Figure]:
    """Pooled AUC and loss of the validation patients by round; none before the first round."""
    if not rounds:
        return ()
    pooled = any(entry.validation.auc.known for entry in rounds)
    ranked = "AUC, osteoporosis" if pooled else "AUC within hospitals, osteoporosis"
    areas = [
        RoundPoint(number=r.number, estimate=r.validation.auc if pooled else r.validation.auc_within_site)
        for r in rounds
    ]
    losses = [RoundPoint(number=r.number, estimate=r.validation.loss) for r in rounds]
    return (
        learning_curve("curve-auc", ranked, areas, chosen_round, ceiling=1.0),
        learning_curve("curve-loss", "Validation loss", losses, chosen_round),
    )


def _site_table(sites: Sequence[StudySite], min_cell: int) -> Table:
    withheld = any(site.patients is None for site in sites)
    return Table(
        title="The hospitals",
        columns=(
            Column("Hospital"),
            Column("Training patients", "number"),
            Column("Validation", "number"),
            Column("Held out", "number"),
            Column("Privacy spent of budget", "number"),
            Column("Rounds answered", "number"),
            Column("Bytes per round", "number"),
            Column("Bytes in all", "number"),
        ),
        rows=[_site_row(site) for site in sites],
        note=PRIVACY_NOTE
        + (f" Withheld: a cell of these counts held 1 to {min_cell - 1} patients." if withheld else ""),
        wide=True,
    )


def _site_row(site: StudySite) -> Sequence[Cell]:
    patients = [
        count(site.patients.get(split, 0) if site.patients else None)
        for split in ("train", "validation", "test")
    ]
    spent = f"ε {epsilon(site.epsilon_spent)} of {epsilon(site.epsilon_budget)}, δ {power_of_ten(site.delta)}"
    return (
        site.name,
        *patients,
        spent if site.private else "off",
        f"{site.rounds_answered} of {site.rounds_asked}",
        size(site.bytes_per_round),
        size(site.bytes_total),
    )


def _ratio(sites: Sequence[StudySite]) -> str:
    largest = max((site.bytes_per_round for site in sites), default=0)
    return f"{size(largest)}, {share(largest, FULL_STATE_DICT_BYTES, 1)}"


def _departure_table(departures: Sequence[Departure]) -> Table:
    rows: list[Sequence[Cell]] = []
    for phase in Phase:
        of_phase = [departure for departure in departures if departure.phase is phase]
        messages = sum(departure.num_messages for departure in of_phase)
        rows.append((phase.value, CONTENTS[phase], count(messages), size(sum(d.num_bytes for d in of_phase))))
    total = sum(departure.num_bytes for departure in departures)
    rows.append(("All", "", count(sum(d.num_messages for d in departures)), size(total)))
    return Table(
        title="What left the hospitals",
        columns=(
            Column("Phase"),
            Column("What it held"),
            Column("Replies", "number"),
            Column("Bytes", "number"),
        ),
        rows=rows,
        totals=1,
        wide=True,
    )


def _departures_by_site(departures: Sequence[Departure]) -> Table:
    rows = [(d.site, d.phase.value, count(d.num_messages), size(d.num_bytes)) for d in departures]
    columns = (Column("Hospital"), Column("Phase"), Column("Replies", "number"), Column("Bytes", "number"))
    return Table(columns=columns, rows=rows)


def _fault_table(faults: Sequence[Fault]) -> Table:
    return Table(
        title="Requests without an answer",
        columns=(Column("Hospital"), Column("Phase"), Column("Round", "number"), Column("What happened")),
        rows=[(fault.site, fault.phase.value, str(fault.round), fault.what) for fault in faults],
    )

"""Everything pooled sums say, as one nested record: what reports draw and `--json` prints."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.keys import CLASSES, OSTEOPOROSIS, Split
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.calibration import (
    CLASS_BINS,
    TOP_LABEL_BINS,
    Bins,
    ReliabilityPoint,
    class_bins,
    ece,
    observed_expected,
    reliability_points,
    top_label_bins,
)
from face2bone_model.metrics.classification import (
    ACCURACY,
    CONFUSION,
    COUNTS,
    RECALL,
    SCREEN,
    accuracy,
    f1_scores,
    precisions,
    recalls,
    screening,
)
from face2bone_model.metrics.discrimination import (
    PAIRS,
    SCORES,
    RocPoint,
    auc,
    auc_within_site,
    macro_auc,
    roc_points,
)
from face2bone_model.metrics.estimate import Estimate
from face2bone_model.metrics.family import ELLIPSE_ONLY, SITES, Released, read_family
from face2bone_model.metrics.grid import grids
from face2bone_model.metrics.losses import LOSSES, brier, brier_osteoporosis, log_loss
from face2bone_model.metrics.subgroup import ALL, groups, locate
from face2bone_model.metrics.suppression import withheld_families

SPLITS = tuple(split.value for split in Split)


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """Every figure of one group of patients."""

    n: int | None
    """Patients at the sites that released this count; None when every site withheld it."""
    n_by_class: tuple[int, int, int] | None
    """Normal, osteopenia, osteoporosis; None when every site withheld it."""
    metrics: Mapping[str, Estimate]
    """By name, with C a class: `accuracy`; `precision:X`, `recall:X`, `f1:X` with X = C, `macro` or `weighted`;
    `specificity:osteoporosis`; `auc:C`, `auc:macro`, `auc_within_site:C`; `ece:X`, `ece_null:X` with X = C or
    `top_label`; `oe:C`; `brier`, `brier:osteoporosis`, `log_loss`."""
    confusion: tuple[tuple[int, ...], ...] | None
    """Rows true, columns predicted class; None when every site withheld it."""
    roc: Mapping[str, tuple[RocPoint, ...]]
    """By class, from (0, 0) to (1, 1); empty when not estimable."""
    reliability: Mapping[str, tuple[ReliabilityPoint, ...]]
    """By class and `top_label`, non-empty bins in rising order; empty when not estimable."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """The evaluation of one model."""

    sites: int
    groups: Mapping[str, GroupSummary]
    """By group name in the order of `subgroup.groups`."""

    def to_json(self) -> str:
        """JSON; NaN becomes null."""
        return _to_json(self)


@dataclass(frozen=True, kw_only=True)
class ValidationSummary:
    """One point of the learning curve."""

    sites: int
    n: int | None
    loss: Estimate
    brier: Estimate
    auc: Estimate
    """Osteoporosis against the rest, all patients in one ranking."""
    auc_within_site: Estimate
    """Osteoporosis against the rest, pairs of the same site only; survives suppression more often."""

    def to_json(self) -> str:
        """JSON; NaN becomes null."""
        return _to_json(self)


@dataclass(frozen=True, kw_only=True)
class DescriptionSummary:
    """Cohort sizes. A field is None where every site withheld it."""

    sites: int
    patients_by_split: Mapping[str, int] | None
    patients_by_class: Mapping[str, int] | None
    patients_by_split_and_class: Mapping[str, Mapping[str, int]] | None
    patients_by_group: Mapping[str, int | None]
    patients_by_group_and_class: Mapping[str, Mapping[str, int] | None]
    excluded_patients: int | None
    quarantined_photos: int | None
    ellipse_only_sites: int
    """Sites without a background network."""
    withheld: tuple[str, ...]
    """Tables, such as `sex/classes`, that at least one site withheld: their counts are of the other sites only."""

    def to_json(self) -> str:
        """JSON."""
        return _to_json(self)


def evaluation_report(statistics: SiteStatistics, settings: EvaluationSettings) -> EvaluationSummary:
    """Every figure of every group, from one site's sums or from the sum over sites."""
    summaries = {group: _group(_Reader(statistics, settings, group)) for group in groups(settings)}
    return EvaluationSummary(sites=int(statistics[SITES][0]), groups=summaries)


def group_report(statistics: SiteStatistics, settings: EvaluationSettings, group: str = ALL) -> GroupSummary:
    """Every figure of one group, from one site's sums or from the sum over sites."""
    return _group(_Reader(statistics, settings, group))


def validation_summary(statistics: SiteStatistics, settings: EvaluationSettings) -> ValidationSummary:
    """Loss, Brier and AUC of the validation patients."""
    read = _Reader(statistics, settings, ALL)
    losses = read(LOSSES.name)
    return ValidationSummary(
        sites=int(statistics[SITES][0]),
        n=int(losses["n"]) if losses.sites else None,
        loss=log_loss(losses),
        brier=brier(losses),
        auc=auc(read(SCORES), 0, OSTEOPOROSIS),
        auc_within_site=auc_within_site(read(PAIRS), 0, OSTEOPOROSIS),
    )


@dataclass(frozen=True)
class _Reader:
    """Looks up what sites released about one group."""

    statistics: SiteStatistics
    settings: EvaluationSettings
    group: str

    def __call__(self, family: str) -> Released:
        group_family, row = locate(self.settings, self.group)
        return read_family(self.statistics, group_family, row, family)

    def best(self, families: Iterable[str]) -> Released:
        """Of several resolutions, finest first, the finest of those that the most sites released."""
        return max((self(family) for family in families), key=lambda released: released.sites)


def _group(read: _Reader) -> GroupSummary:
    counts, confusion = read(COUNTS.name), read(CONFUSION.name)
    by_class = [int(count) for count in counts["by_class"]]
    scores = read.best((SCORES, *_calibration(read.settings, CLASS_BINS)))
    points = {name: roc_points(scores["counts"][k]) for k, name in enumerate(CLASSES)}
    return GroupSummary(
        n=sum(by_class) if counts.sites else None,
        n_by_class=(by_class[0], by_class[1], by_class[2]) if counts.sites else None,
        metrics=_classification(read) | _discrimination(read, scores) | _calibrated(read) | _losses(read),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion["counts"])
        if confusion.sites
        else None,
        roc=points,
        reliability={name: reliability_points(bins) for name, (_, bins) in _bins(read).items()},
    )


def _classification(read: _Reader) -> dict[str, Estimate]:
    confusion = read(CONFUSION.name)
    estimates = {
        "accuracy": accuracy(read(ACCURACY.name)),
        **precisions(confusion),
        **recalls(read(RECALL.name)),
        **f1_scores(confusion),
    }
    for name, estimate in screening(read(SCREEN.name)).items():
        if name not in estimates or estimate.sites > estimates[name].sites:
            estimates[name] = estimate
    return estimates


def _discrimination(read: _Reader, scores: Released) -> dict[str, Estimate]:
    pairs = read(PAIRS)
    return {
        **{f"auc:{name}": auc(scores, k, k) for k, name in enumerate(CLASSES)},
        "auc:macro": macro_auc(scores),
        **{f"auc_within_site:{name}": auc_within_site(pairs, k, k) for k, name in enumerate(CLASSES)},
    }


def _calibrated(read: _Reader) -> dict[str, Estimate]:
    estimates: dict[str, Estimate] = {}
    for name, (released, bins) in _bins(read).items():
        estimates[f"ece:{name}"], estimates[f"ece_null:{name}"] = ece(released, bins, name)
    whole = read(f"{CLASS_BINS}1")
    for k, name in enumerate(CLASSES):
        estimates[f"oe:{name}"] = observed_expected(whole, class_bins(whole, k), k)
    return estimates


def _losses(read: _Reader) -> dict[str, Estimate]:
    losses = read(LOSSES.name)
    return {
        "brier": brier(losses),
        "brier:osteoporosis": brier_osteoporosis(losses),
        "log_loss": log_loss(losses),
    }


def _bins(read: _Reader) -> dict[str, tuple[Released, Bins]]:
    """The calibration bins of the top label and of each class, at the resolution that the most sites released."""
    top = read.best(_calibration(read.settings, TOP_LABEL_BINS))
    classes = read.best(_calibration(read.settings, CLASS_BINS))
    by_class = {name: (classes, class_bins(classes, k)) for k, name in enumerate(CLASSES)}
    return {"top_label": (top, top_label_bins(top)), **by_class}


def _calibration(settings: EvaluationSettings, prefix: str) -> tuple[str, ...]:
    """Families of calibration bins, finest first, without the single bin that can show no miscalibration."""
    return tuple(f"{prefix}{bins}" for bins in grids(settings).calibration if bins > 1)


def describe_summary(statistics: SiteStatistics, settings: EvaluationSettings) -> DescriptionSummary:
    """Cohort sizes by split, class and group."""
    read = _Reader(statistics, settings, ALL)
    by_split_and_class = _counts(read("splits_by_class"))
    totals = {name: _counts(_Reader(statistics, settings, name)("totals")) for name in groups(settings)}
    classes = {name: _counts(_Reader(statistics, settings, name)("classes")) for name in groups(settings)}
    return DescriptionSummary(
        sites=int(statistics[SITES][0]),
        patients_by_split=_named(SPLITS, _counts(read("splits"))),
        patients_by_class=_named(CLASSES, classes[ALL]),
        patients_by_split_and_class=None
        if by_split_and_class is None
        else {split: _some(CLASSES, row) for split, row in zip(SPLITS, by_split_and_class, strict=True)},
        patients_by_group={name: None if total is None else int(total[0]) for name, total in totals.items()},
        patients_by_group_and_class={name: _named(CLASSES, row) for name, row in classes.items()},
        excluded_patients=_single(_counts(read("excluded_patients"))),
        quarantined_photos=_single(_counts(read("quarantined_photos"))),
        ellipse_only_sites=int(statistics[ELLIPSE_ONLY][0]),
        withheld=withheld_families(statistics),
    )


def _counts(released: Released) -> NDArray[np.int64] | None:
    return released["counts"] if released.sites else None


def _single(counts: NDArray[np.int64] | None) -> int | None:
    return None if counts is None else int(counts[0])


def _named(names: Sequence[str], counts: NDArray[np.int64] | None) -> dict[str, int] | None:
    return None if counts is None else _some(names, counts)


def _some(names: Sequence[str], counts: NDArray[np.int64]) -> dict[str, int]:
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _to_json(record: Any) -> str:
    return json.dumps(_plain(dataclasses.asdict(record)), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

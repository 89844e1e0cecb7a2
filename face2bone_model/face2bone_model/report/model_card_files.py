"""The files of a model card: Markdown for people, JSON for programs."""

import dataclasses
import json
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from face2bone_model.contract.keys import CLASSES
from face2bone_model.contract.study import Study
from face2bone_model.metrics.estimate import Estimate
from face2bone_model.metrics.subgroup import ALL
from face2bone_model.metrics.summary import EvaluationSummary, GroupSummary, ValidationSummary
from face2bone_model.report.evaluation_tables import KINDS, TARGET, TOP_LABEL, group_name, metric_of
from face2bone_model.report.formats import count, epsilon, plain_estimate, power_of_ten
from face2bone_model.report.model_card import CardSite, ModelCard
from face2bone_model.report.model_card_words import (
    INTENDED_USE,
    NOT_FOR,
    ORIGIN,
    PRIVACY_SCOPE,
    limitations,
    standing,
)
from face2bone_model.report.render import TEMPLATES, plain

FORMAT = "face2bone model card 1"
HEADLINE = (
    f"auc:{TARGET}",
    f"auc_within_site:{TARGET}",
    "auc:macro",
    "accuracy",
    f"recall:{TARGET}",
    f"specificity:{TARGET}",
    f"precision:{TARGET}",
    "f1:macro",
    f"ece:{TOP_LABEL}",
    f"oe:{TARGET}",
    "brier",
    "log_loss",
)
"""Figures of the Markdown card; the JSON has all of them."""
GROUP_FIGURES = ("accuracy", f"auc:{TARGET}", f"ece:{TOP_LABEL}", "brier")
MARKUP = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_<>[]|#"} | {"\n": " ", "\r": " "})


def card_json(card: ModelCard) -> bytes:
    """The card for programs; what is not known is null."""
    study = card.study
    told = {
        "format": FORMAT,
        "name": study.name,
        "question": study.question,
        "study_hash": study.hash(),
        "round": card.round,
        "rounds": study.training.rounds,
        "chosen_round": card.chosen_round or None,
        "standing": standing(card),
        "checkpoint": card.checkpoint,
        "software": f"face2bone {card.software_version}",
        "synthetic": card.synthetic,
        "intended_use": INTENDED_USE,
        "not_for": NOT_FOR,
        "origin": ORIGIN,
        "model": {**dataclasses.asdict(study.model), "scalars": card.scalars, "trunk": _trunk(study)},
        "outcome": {"classes": CLASSES, "by": "WHO class of the lowest valid T-score (DXA)"},
        "cohort": card.cohort,
        "sites": [{**plain(site), "private": site.private} for site in card.sites],
        "training": {"settings": study.training, "strategy": study.strategy, "missing": card.missing},
        "privacy": {"terms": study.privacy, "scope": PRIVACY_SCOPE, "every_site": card.private},
        "smallest_cell": study.evaluation.min_cell,
        "validation": card.validation,
        "evaluation": _evaluation(card.evaluation),
        "definitions": _definitions(card),
        "limitations": limitations(card),
    }
    return json.dumps(plain(told), ensure_ascii=False, allow_nan=False, indent=1).encode() + b"\n"


def card_markdown(card: ModelCard) -> bytes:
    """The card for people."""
    environment = Environment(  # Markdown, not HTML; free text passes the filter `text`
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = lambda value: str(value).translate(MARKUP)
    environment.filters["count"] = count
    template = environment.get_template("model_card.md.j2")
    return template.render(card=card, study=card.study, **_words(card)).encode()


def _words(card: ModelCard) -> dict[str, Any]:
    """What the template needs beside the record itself."""
    everyone = card.evaluation.groups[ALL] if card.evaluation else None
    return {
        "standing": standing(card),
        "intended_use": INTENDED_USE,
        "not_for": NOT_FOR,
        "origin": ORIGIN,
        "privacy_scope": PRIVACY_SCOPE,
        "classes": CLASSES,
        "group_name": group_name,
        "site_rows": [_site_row(site) for site in card.sites],
        "validation": _validation_rows(card.validation),
        "held_out": None if everyone is None else everyone.n,
        "figures": [(_figure_name(key), _cell(metric_of(everyone, key))) for key in HEADLINE]
        if everyone
        else [],
        "groups": [_group_row(name, group) for name, group in card.evaluation.groups.items()]
        if card.evaluation
        else [],
        "definitions": _definitions(card),
        "limitations": limitations(card),
    }


def _trunk(study: Study) -> dict[str, str]:
    return {"name": study.trunk_name, "sha256": study.trunk_digest}


def _evaluation(evaluation: EvaluationSummary | None) -> dict[str, Any] | None:
    """Figures and counts of each group; curves are in the study's report."""
    if evaluation is None:
        return None
    groups = {
        name: {
            "n": group.n,
            "n_by_class": group.n_by_class,
            "confusion": group.confusion,
            "figures": {key: _figure(estimate) for key, estimate in group.metrics.items()},
        }
        for name, group in evaluation.groups.items()
    }
    return {"sites": evaluation.sites, "groups": groups}


def _figure(estimate: Estimate) -> dict[str, Any]:
    names = ("value", "low", "high", "n", "sites", "withheld", "exact", "bound", "reason")
    return {name: getattr(estimate, name) for name in names}


def _definitions(card: ModelCard) -> list[dict[str, str]]:
    """Of each kind of figure, what it is and where from; of figures by class, osteoporosis is the example."""
    if card.evaluation is None:
        return []
    metrics = card.evaluation.groups[ALL].metrics
    found = ((kind, metrics.get(kind, metrics.get(f"{kind}:{TARGET}"))) for kind in KINDS)
    return [
        {
            "figure": kind,
            "name": KINDS[kind][0],
            "meaning": KINDS[kind][1],
            "definition": estimate.definition[:1].upper() + estimate.definition[1:],
            "source": estimate.source,
        }
        for kind, estimate in found
        if estimate is not None
    ]


def _figure_name(key: str) -> str:
    kind, _, of = key.partition(":")
    name = "Specificity" if kind == "specificity" else KINDS[kind][0]
    return f"{name}: {of.replace('_', ' ')}" if of else name


def _cell(estimate: Estimate) -> str:
    """Value and interval, or why there is none; and how many hospitals withheld their share."""
    if not estimate.known and estimate.withheld:
        return estimate.reason or "Withheld."
    written = plain_estimate(estimate)
    return f"{written}. {estimate.reason}" if estimate.known and estimate.reason else written


def _validation_rows(validation: ValidationSummary | None) -> list[tuple[str, str]]:
    if validation is None:
        return []
    return [
        ("Patients", count(validation.n)),
        ("Log loss", _cell(validation.loss)),
        ("Brier score", _cell(validation.brier)),
        ("AUC, osteoporosis", _cell(validation.auc)),
        ("AUC within hospitals, osteoporosis", _cell(validation.auc_within_site)),
    ]


def _group_row(name: str, group: GroupSummary) -> tuple[str, ...]:
    return (group_name(name), count(group.n), *(_cell(metric_of(group, key)) for key in GROUP_FIGURES))


def _site_row(site: CardSite) -> tuple[str, ...]:
    patients = [
        count(site.patients.get(split, 0) if site.patients else None)
        for split in ("train", "validation", "test")
    ]
    spent = f"ε {epsilon(site.epsilon)}, δ {power_of_ten(site.delta)}, noise {site.noise_multiplier:g}"
    return (site.name, *patients, str(site.rounds_contributed), spent if site.private else "off")

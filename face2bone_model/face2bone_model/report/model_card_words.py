"""What every model card says in words: what the model is for, what it is not for, and its limitations."""

from face2bone_model.report.model_card import ModelCard

INTENDED_USE = (
    "Research: to study whether, and how well, bone status in three classes (normal, osteopenia, osteoporosis by WHO "
    "criteria) can be told from a frontal photograph of the face, in hospitals beside those that trained the model."
)
NOT_FOR = (
    "Clinical decisions about any patient: diagnosis, screening, triage, treatment, or doing without a DXA scan.",
    "Persons who did not agree to their photograph being used in this way, and any use outside an approved study.",
    "Identifying people, or telling age, sex, origin or health other than the three classes.",
    "Photographs taken or prepared in another way than face2bone prepares them.",
)
ORIGIN = (
    "A reconstruction of a published idea (Face2Bone). The paper gives no sizes of its network; those in this model "
    "are this project's choice. It is not the authors' model, and its figures are not theirs."
)
PRIVACY_SCOPE = (
    "ε and δ are each hospital's own report and hold for its training patients and the trained numbers only. Counts "
    "and sums, on which the figures rest, are protected by the smallest cell, not by ε."
)
RANDOM = "random"


def standing(card: ModelCard) -> str:
    """Whether this is the model that the study chose, in a sentence."""
    which = f"round {card.round} of {card.study.training.rounds}"
    if card.chosen:
        return f"The study's chosen model: {which}."
    unseen = "It was not evaluated on held-out patients."
    if not card.chosen_round:
        return f"Preliminary: the model after {which}, released before the study chose one. {unseen}"
    return f"NOT the study's chosen model: this is {which}; round {card.chosen_round} was chosen. {unseen}"


def limitations(card: ModelCard) -> tuple[str, ...]:
    """What a reader must know before the figures, the gravest first."""
    return (*_of_this_model(card), *_of_every_model(), *_of_this_study(card))


def _of_this_model(card: ModelCard) -> list[str]:
    personal = ", ".join(card.study.strategy.personal)
    told = (
        (
            card.synthetic,
            "Every face was drawn by a program. The figures show that the software works, no more.",
        ),
        (not card.chosen, standing(card)),
        (
            card.study.trunk_name == RANDOM,
            "The frozen network holds seeded random numbers, not pretrained weights.",
        ),
        (
            bool(personal),
            f"Tensors named {personal} stayed at each hospital and are not in this release: it cannot be used "
            "elsewhere before they are trained there.",
        ),
    )
    return [sentence for applies, sentence in told if applies]


def _of_every_model() -> tuple[str, ...]:
    return (
        "No external validation: the figures are of patients of the hospitals that trained the model, held out by "
        "patient. Other hospitals, cameras and populations may differ.",
        "No prospective use, no comparison with clinical risk scores, no measure of benefit or harm to patients.",
        "Counts and sums are taken as the hospitals released them; nobody at the centre saw a photograph or a record.",
    )


def _of_this_study(card: ModelCard) -> list[str]:
    ellipse_only = card.cohort.ellipse_only_sites if card.cohort else 0
    withheld = card.cohort.withheld if card.cohort else ()
    told = (
        (
            bool(withheld),
            f"Because of small cells, {len(withheld)} tables of counts were withheld by at least one hospital: what is "
            "pooled is then of the others only.",
        ),
        (
            ellipse_only > 0,
            f"At {ellipse_only} of the hospitals, which had no background network, only an elliptical mask hid the "
            "background.",
        ),
        (
            card.study.evaluation.min_cell <= 1,
            "Small cells were not withheld (min_cell 1). This suits rendered faces or a rehearsal, not patients.",
        ),
        (
            not card.private,
            "Not every hospital trained with differential privacy: whoever holds the model may learn something about "
            "single training patients.",
        ),
        (
            bool(card.missing),
            "The update of at least one hospital is missing or was left out in these rounds: "
            f"{', '.join(map(str, card.missing))}.",
        ),
    )
    return [sentence for applies, sentence in told if applies]

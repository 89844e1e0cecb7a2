"""The stated model behind every synthetic patient: how age, sex and body mass make a T-score, and the T-score a face.

    T        = intercept + per_decade (age - 66) / 10 + male [man] + per_bmi (BMI - 25) / 4 + residual_sd e0
    feature  = loading (T - T_MEAN) / T_SD + sqrt(1 - loading^2) e            one line for each planted feature

All e are independent standard normal. A feature is in standard deviations from the average face. Its sign follows what
ageing does to a facial skeleton (Shaw et al., Plast Reconstr Surg 2011;127:374: the orbital aperture grows, the maxilla
retrudes, the mandible loses height and its angle opens); that bone density drives it, and how strongly, is our
assumption, set so that the best possible AUC is known and lies between 0.90 and 0.95. The T-score drawn is the lowest
of a patient's skeletal sites.

In `shortcut` mode the same faces are drawn with every loading 0, and T follows age almost alone: whatever a model
then finds, it finds in skin and hair.
"""

from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["causal", "shortcut"]

AGE_CENTRE = 66.0
BMI_CENTRE = 25.0
BMI_STEP = 4.0
T_MEAN = -1.35
T_SD = 1.28

OSTEOPOROSIS_TENTHS = -25
"""T <= -2.5 in tenths: T-scores are reported, and classed, to one decimal."""
NORMAL_TENTHS = -10
OSTEOPOROSIS_EDGE = -2.45
"""A latent T below this is reported as -2.5 or less."""


@dataclass(frozen=True, kw_only=True)
class BoneModel:
    """Coefficients of the T-score, in T-score units."""

    intercept: float
    per_decade: float
    male: float
    per_bmi: float
    residual_sd: float

    def expected_t(self, *, age: float, male: bool, bmi: float) -> float:
        """Mean T-score of such a patient, before the face is seen."""
        return (
            self.intercept
            + self.per_decade * (age - AGE_CENTRE) / 10
            + self.male * male
            + self.per_bmi * (bmi - BMI_CENTRE) / BMI_STEP
        )


_BONE: dict[Mode, BoneModel] = {
    "causal": BoneModel(intercept=-1.48, per_decade=-0.48, male=0.40, per_bmi=0.16, residual_sd=1.15),
    "shortcut": BoneModel(intercept=-1.35, per_decade=-1.22, male=0.0, per_bmi=0.0, residual_sd=0.55),
}

_LOADINGS: dict[str, float] = {
    "mandible_width": 0.68,
    "mandible_angle": -0.63,
    "chin_projection": 0.58,
    "orbital_aperture": -0.63,
    "maxillary_retrusion": -0.58,
}
"""Correlation of each planted feature with the T-score, positive where the feature shrinks with bone loss."""


def bone_model(mode: Mode) -> BoneModel:
    """The T-score's coefficients in this mode."""
    return _BONE[mode]


def loadings(mode: Mode) -> dict[str, float]:
    """Loading of each planted feature, in the order of `PlantedShape`; all 0 in `shortcut` mode."""
    return dict.fromkeys(_LOADINGS, 0.0) if mode == "shortcut" else dict(_LOADINGS)


def generator_card() -> dict[str, Any]:
    """Every coefficient, for reports and for whoever checks the best possible AUC."""
    return {
        "model": __doc__,
        "t_mean": T_MEAN,
        "t_sd": T_SD,
        "bone": {mode: vars(_BONE[mode]) for mode in _BONE},
        "loadings": {mode: loadings(mode) for mode in _BONE},
        "classes": {"osteoporosis": "T <= -2.5", "normal": "T >= -1.0", "rounded_to": 0.1},
    }

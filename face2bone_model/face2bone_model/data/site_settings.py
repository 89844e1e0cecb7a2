"""What a hospital says about its own folder: the tables of `site.toml` that concern photos, DXA and labels.

Other tables (weights, network, …) belong to the client and are not read here.
"""

import codecs
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from face2bone_model.contract.keys import Split
from face2bone_model.contract.settings_table import read_settings
from face2bone_model.contract.study import read_toml
from face2bone_model.data.skeletal_site import vertebrae_in

SITE_FILE = "site.toml"


@dataclass(frozen=True, kw_only=True)
class SiteName:
    """``[site]``."""

    name: str


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """``[photos]``: where photos are and how a file's name tells the patient."""

    folder: str = "photos"
    """Below the site folder; sub-folders are searched too."""
    pattern: str = r"^(?P<patient>[A-Za-z0-9]+)"
    """Searched in the file name, or, if it contains ``/``, in the path below `folder`. The group `patient` is
    the patient as written in the DXA export."""

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ValueError(f"[photos] pattern is not a regular expression: {error}.") from error
        if "patient" not in groups:
            raise ValueError("[photos] pattern has no group (?P<patient>…) that says who is on the photo.")


@dataclass(frozen=True, kw_only=True)
class DxaColumns:
    """``[dxa.columns]``: our name = the heading in the CSV file. An empty text means: not in the file."""

    patient: str = ""
    sex: str = ""
    age: str = ""
    """In years. Or give `birth_date` and `scan_date`."""
    birth_date: str = ""
    scan_date: str = ""
    menopause: str = ""
    height_cm: str = ""
    weight_kg: str = ""
    bmi: str = ""
    """kg/m2; used where height or weight is missing."""
    device: str = ""
    skeletal_site: str = ""
    """csv-long only, as are the next five."""
    scan_type: str = ""
    """A second column for exports whose regions repeat between scans (spine "Total", hip "Total"): scan type,
    a space and the region together are then what `[dxa.values]` lists."""
    side: str = ""
    t_score: str = ""
    z_score: str = ""
    bmd: str = ""
    t_lumbar_spine: str = ""
    """csv-wide only, as are all that follow."""
    t_femoral_neck: str = ""
    t_total_hip: str = ""
    t_femoral_neck_other_side: str = ""
    t_total_hip_other_side: str = ""
    t_radius_33: str = ""
    z_lumbar_spine: str = ""
    z_femoral_neck: str = ""
    z_total_hip: str = ""
    z_radius_33: str = ""
    bmd_lumbar_spine: str = ""
    bmd_femoral_neck: str = ""
    bmd_total_hip: str = ""
    bmd_radius_33: str = ""


@dataclass(frozen=True, kw_only=True)
class DxaValues:
    """``[dxa.values]``: our value = the list of theirs. Compared without regard to case, width and spaces.

    Menopause is also recognised by SNOMED CT code, for FHIR and DICOM. If any skeletal site is listed, only
    what is listed counts; with none listed, usual names such as "AP Spine L1-L4" or "Femoral neck" are
    recognised.
    """

    female: tuple[str, ...] = ("f", "female", "w", "woman", "女")
    male: tuple[str, ...] = ("m", "male", "man", "男")
    postmenopausal: tuple[str, ...] = (
        "post",
        "postmenopausal",
        "post menopausal",
        "绝经",
        "76498008",
        "307429007",
    )
    menopausal_transition: tuple[str, ...] = ("peri", "perimenopausal", "161541000119104")
    premenopausal: tuple[str, ...] = (
        "pre",
        "premenopausal",
        "pre menopausal",
        "未绝经",
        "22636003",
        "309606002",
    )
    left: tuple[str, ...] = ("l", "left", "lt", "左")
    right: tuple[str, ...] = ("r", "right", "rt", "右")
    lumbar_spine: tuple[str, ...] = ()
    femoral_neck: tuple[str, ...] = ()
    total_hip: tuple[str, ...] = ()
    radius_33: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.lumbar_spine:
            if len(vertebrae_in(name)) == 1:
                raise ValueError(
                    f"lumbar_spine lists '{name}', but a single vertebra is not a diagnostic site (ISCD)."
                )


@dataclass(frozen=True, kw_only=True)
class DxaSettings:
    """``[dxa]``: the export and how to read it."""

    file: str = "dxa_export.csv"
    """Below the site folder. For fhir and dicom-sr it may be a folder of files."""
    format: Literal["csv-long", "csv-wide", "fhir", "dicom-sr"] = "csv-long"
    """csv-long: one row per skeletal site. csv-wide: one row per patient. fhir: Bundle (JSON) or NDJSON.
    dicom-sr: structured reports."""
    delimiter: str = ","
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    skip_rows: int = 0
    """Rows above the headings."""
    date_format: str = ""
    """As for `strptime`, such as ``%d.%m.%Y``. Empty: ISO 8601."""
    patient_identifier_system: str = ""
    """fhir: take the patient's identifier of this system. Empty: take the resource's id."""
    t_reference_db: str = "not stated"
    """The population behind the T-scores, such as ``NHANES III white female``. T-scores against another are
    not comparable between hospitals; reports show it."""
    software: str = "not stated"
    """The densitometer's software and version."""
    columns: DxaColumns = field(default_factory=DxaColumns)
    values: DxaValues = field(default_factory=DxaValues)

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1:
            raise ValueError(
                f"[dxa] delimiter is {self.delimiter!r}; it is one character, such as ';' or '\\t'."
            )
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ValueError(
                f"[dxa] encoding '{self.encoding}' is not known. Use utf-8, cp1252 or gb18030."
            ) from error


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """``[labels]``: who may be classed, and how."""

    normal_includes_minus_one: bool = True
    """True: T = -1.0 is normal (WHO, "-1.0 and above"). False: it is osteopenia."""
    men_from_age: int = 50
    """WHO classes apply to men from this age (ISCD)."""
    women_postmenopausal_from_age: int | None = None
    """Treat a woman whose menopausal status is not recorded as postmenopausal from this age. Absent: leave
    her out."""
    use_radius: bool = True
    """Class by the 33 % radius where neither hip nor spine can be used."""
    accept_femur_unspecified: bool = False
    """Count a femur T-score that does not say neck or total as total hip."""
    max_vertebra_difference: float | None = None
    """1.0 applies the ISCD rule: a spine region whose neighbouring vertebrae differ by more than this T is
    not used; the report's largest region without such a pair is. Absent: the region with the most
    vertebrae."""
    exclude_patients: tuple[str, ...] = ()
    """Patients never to be used, for example because consent was withdrawn."""


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """``[split]``: shares of patients."""

    train: float = 0.6
    validation: float = 0.15
    test: float = 0.25

    def __post_init__(self) -> None:
        if min(self.train, self.validation, self.test) < 0 or sum(self.shares.values()) != 1:
            raise ValueError("[split] train, validation and test are shares from 0 to 1 that add up to 1.")

    @property
    def shares(self) -> dict[Split, Fraction]:
        """Exact shares, as written."""
        return {split: Fraction(str(getattr(self, split.value))) for split in Split}


@dataclass(frozen=True, kw_only=True)
class SiteData:
    """A site's photos, DXA export and label rules."""

    site: SiteName
    photos: PhotoSettings = field(default_factory=PhotoSettings)
    dxa: DxaSettings = field(default_factory=DxaSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    split: SplitSettings = field(default_factory=SplitSettings)


_OWN_TABLES = ("site", "photos", "dxa", "labels", "split")


def read_site_data(site_folder: Path) -> SiteData:
    """Read the tables of `site.toml` that this part owns.

    Raises:
        SettingsError: the file is missing, is not TOML, or one of these tables has a key that is unknown,
        missing or of the wrong type.
    """
    table = read_toml(site_folder / SITE_FILE)
    return read_settings(SiteData, {key: table[key] for key in _OWN_TABLES if key in table}, SITE_FILE)

"""The study page and the site page, made from real metrics on simulated scores."""

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from face2bone_model.contract.keys import CLASSES, Phase
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.data.problem import Problem
from face2bone_model.metrics.description import describe_update
from face2bone_model.metrics.evaluation import evaluation_update, validation_update
from face2bone_model.metrics.summary import describe_summary, evaluation_report, validation_summary
from face2bone_model.metrics.suppression import suppress
from face2bone_model.report.formats import plain_estimate
from face2bone_model.report.provenance import Provenance
from face2bone_model.report.site import (
    FlowStep,
    Ledger,
    LocalRound,
    Preparation,
    ReceiptLine,
    SitePage,
    write_site_page,
)
from face2bone_model.report.study import (
    Departure,
    Fault,
    StudyPage,
    StudyRound,
    StudySite,
    write_study_page,
)

SETTINGS = EvaluationSettings(min_cell=1)
NAMES = ("North", "Sankt Vitus", "Harbour")
SENT = datetime(2026, 11, 23, 13, 31, tzinfo=UTC)
CHROMIUM = shutil.which("chromium")


def scores(rng, patients, skill=1.4):
    """Probabilities, labels, sex and ages of simulated patients whose T-score the model sees with noise."""
    ages = rng.integers(44, 92, patients)
    t_score = rng.normal(-1.5 - (ages - 65) * 0.035, 1.0)
    labels = np.where(t_score <= -2.5, 2, np.where(t_score < -1, 1, 0))
    seen = t_score + rng.normal(0, 1 / skill, patients)
    logits = np.stack([(seen + 0.6) * 1.5, 0.9 - np.abs(seen + 1.75) * 1.3, (-2.6 - seen) * 1.5], axis=1)
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), labels, rng.random(patients) < 0.7, ages


@cache
def pooled(min_cell=1, sizes=(140, 110, 90)):
    rng = np.random.default_rng(1)
    parts = [suppress(evaluation_update(SETTINGS, *scores(rng, size)), min_cell=min_cell) for size in sizes]
    return evaluation_report(sum(parts[1:], start=parts[0]), SETTINGS)


@cache
def validated(number):
    probabilities, labels, _, _ = scores(np.random.default_rng(5), 80, skill=0.5 + 0.3 * number)
    return validation_summary(validation_update(SETTINGS, probabilities, labels), SETTINGS)


def a_provenance(**changes):
    provenance = Provenance(
        title="Bone status from the face",
        question="Does the face tell?",
        study_hash="9f2c" * 16,
        written_at=SENT + timedelta(hours=1),
        software_version="0.1.0",
        model="FaceNet, FSA, both branches, KAN head",
        min_cell=11,
    )
    return replace(provenance, **changes)


def a_study_page(names=NAMES, evaluation=None, num_rounds=4, **changes):
    rounds = tuple(
        StudyRound(number=number, validation=validated(number), answered=tuple(names))
        for number in range(1, num_rounds + 1)
    )
    sites = tuple(
        StudySite(
            name=name,
            patients={"train": 1280 + index, "validation": 60, "test": 110},
            private=index == 1,
            epsilon_spent=5.93 if index == 1 else 0.0,
            epsilon_budget=8.0,
            delta=1e-5,
            rounds_answered=4 - (index == 1),
            rounds_asked=4,
            bytes_per_round=1_658_204,
            bytes_total=6_900_000,
        )
        for index, name in enumerate(names)
    )
    departures = tuple(
        Departure(site=name, phase=phase, num_messages=1, num_bytes=1_658_204)
        for name in names
        for phase in Phase
    )
    fault = Fault(site=names[1], phase=Phase.TRAIN, round=3, what="no answer within 600 s")
    return StudyPage(
        provenance=a_provenance(**changes),
        evaluation=evaluation or pooled(),
        rounds=rounds,
        chosen_round=3,
        sites=sites,
        departures=departures,
        faults=(fault,),
    )


def a_site_page(**changes):
    rng = np.random.default_rng(7)
    probabilities, labels, female, ages = scores(rng, 300)
    splits = np.repeat(["train", "validation", "test"], [150, 50, 100])
    cohort = describe_update(
        SETTINGS,
        labels=labels,
        splits=splits,
        female=female,
        ages=ages,
        excluded_patients=9,
        quarantined_photos=5,
    )
    own = splits == "test"
    page = SitePage(
        provenance=a_provenance(),
        site="Sankt Vitus",
        flow=(
            FlowStep(what="patients in the export", number=309, lost={}),
            FlowStep(what="in the study", number=300, lost={"no usable photo": 5, "premenopausal woman": 4}),
        ),
        cohort=describe_summary(cohort, SETTINGS),
        preparation=Preparation(
            photos=320,
            usable=315,
            quarantined={"no face": 3, "blurred": 2},
            contact_sheet="contact-sheet.html",
        ),
        rounds=(LocalRound(number=1, epochs=2, train_loss=0.91, seconds=7.4, epsilon_after=2.1),),
        evaluation=evaluation_report(
            evaluation_update(SETTINGS, probabilities[own], labels[own], female[own], ages[own]), SETTINGS
        ),
        ledger=Ledger(
            private=True,
            epsilon_spent=2.1,
            epsilon_budget=8.0,
            delta=1e-5,
            noise_multiplier=0.83,
            epsilon_pld=1.87,
        ),
        receipts=(
            ReceiptLine(sent_at=SENT, phase=Phase.DESCRIBE, round=0, num_bytes=9_812, digest="ab12" * 16),
            ReceiptLine(sent_at=SENT, phase=Phase.TRAIN, round=1, num_bytes=1_658_204, digest="cd34" * 16),
        ),
        problems=(Problem("dxa.csv row 12", "T-score is 25.", "Correct the row."),),
    )
    return replace(page, **changes)


@pytest.fixture(scope="module")
def study_html(tmp_path_factory):
    return write_study_page(a_study_page(), tmp_path_factory.mktemp("study")).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site_html(tmp_path_factory):
    return write_site_page(a_site_page(), tmp_path_factory.mktemp("site")).read_text(encoding="utf-8")


@pytest.fixture(params=["study", "site"])
def html(request):
    return request.getfixturevalue(f"{request.param}_html")


def words(html):
    """The page as a reader meets it: no tags, spaces collapsed."""
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    text = re.sub(r"</(?:p|td|th|dt|dd|li|text|title|desc|h\d|figcaption|caption)>", " ", body)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", text)))


class WellFormed(HTMLParser):
    """Fails on a tag that is not closed, closed twice or closed out of order."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.described = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"])
        self.links += [
            value for key, value in attrs if key in ("href", "src", "xlink:href", "action", "data")
        ]
        self.described += found.get("aria-labelledby", "").split()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html):
    parser = WellFormed()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_a_page_is_well_formed_and_its_references_lead_somewhere(html):
    page = parsed(html)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.described) <= set(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_a_page_loads_nothing_and_runs_nothing(html):
    page = parsed(html)
    outside = [link for link in page.links if not link.startswith("#")]
    assert set(outside) <= {"study.json", "site.json", "contact-sheet.html"}
    for forbidden in (
        "<script",
        "<link",
        "<iframe",
        "@import",
        "@font-face",
        "url(",
        "://",
        " onload",
        " onclick",
    ):
        assert forbidden not in html.lower()
    assert "default-src 'none'" in html


def test_a_page_knows_phones_darkness_and_paper(html):
    for needed in (
        'name="viewport"',
        "@media screen and (max-width: 700px)",
        "@media (prefers-color-scheme: dark)",
        "@media print",
    ):
        assert needed in html


def test_every_figure_of_the_study_appears_with_its_interval(study_html):
    text = words(study_html)
    everyone = pooled().groups["all"]
    two = ["accuracy", "f1:macro", "auc:macro"]
    two += [f"{kind}:{label}" for kind in ("recall", "precision", "f1", "auc", "oe") for label in CLASSES]
    three = ["brier", "ece:top_label", "ece_null:top_label", *(f"ece:{label}" for label in CLASSES)]
    for digits, keys in ((2, two), (3, three)):
        for key in keys:
            written = plain_estimate(everyone.metrics[key], digits)
            assert re.fullmatch(r"\d\.\d+ \(\d\.\d+ to \d\.\d+\)", written), key
            assert written in text, key


def test_every_group_is_in_the_table_with_its_intervals(study_html):
    text = words(study_html)
    for name, group in pooled().groups.items():
        for key, digits in (("accuracy", 2), ("auc:osteoporosis", 2), ("ece:top_label", 3), ("brier", 3)):
            estimate = group.metrics[key]
            assert (plain_estimate(estimate, digits) if estimate.known else estimate.reason) in text, (
                name,
                key,
            )


def test_the_head_of_the_page_says_which_study_it_is(html):
    text = words(html)
    for needed in (
        "Bone status from the face",
        "Does the face tell?",
        "9f2c" * 16,
        "23 November 2026, 14:31 UTC",
        "face2bone 0.1.0",
    ):
        assert needed in text


@pytest.mark.parametrize(
    ("change", "banner"),
    [
        ({"synthetic": True}, "Synthetic faces: no clinical claim"),
        ({"random_trunk": True}, "Random trunk"),
        ({"ellipse_only": True}, "Ellipse only"),
        ({"min_cell": 1}, "Small-cell suppression off (min_cell = 1)"),
    ],
)
def test_a_banner_appears_when_it_applies_and_only_then(tmp_path, study_html, change, banner):
    assert banner not in words(study_html)
    page = write_study_page(a_study_page(**change), tmp_path)
    assert banner in words(page.read_text(encoding="utf-8"))


def test_sites_bytes_and_faults_are_told(study_html):
    text = words(study_html)
    assert "1 281" in text
    assert "ε 5.93 of 8.00, δ 10⁻⁵" in text
    assert "3 of 4" in text
    assert "no answer within 600 s" in text
    assert "1.66 MB, 1.8 % of a full InceptionResnetV1 state dict (94.2 MB)" in text
    assert "The trained part of the network as one vector" in text


def test_a_study_without_faults_says_so(tmp_path):
    page = write_study_page(replace(a_study_page(), faults=()), tmp_path)
    assert "None: every hospital answered every request in time." in words(page.read_text(encoding="utf-8"))


def test_a_study_without_rounds_and_answers_is_whole(tmp_path):
    bare = replace(a_study_page(), rounds=(), chosen_round=None, sites=(), departures=(), faults=())
    html = write_study_page(bare, tmp_path).read_text(encoding="utf-8")
    parsed(html)
    assert "No round has been trained." in words(html)


def test_withheld_groups_are_explained_and_nothing_is_made_up(tmp_path):
    evaluation = pooled(min_cell=11, sizes=(60, 50, 40))
    assert evaluation.groups["age:<50"].n is None
    page = write_study_page(a_study_page(evaluation=evaluation), tmp_path)
    text = words(page.read_text(encoding="utf-8"))
    parsed(page.read_text(encoding="utf-8"))
    assert "a hospital releases no table with a cell of 1 to 10 patients" in text
    assert "Every hospital withheld this count because of small cells." in text
    assert "The confusion matrix is withheld" in text
    assert not re.search(r"\bnan\b", text, flags=re.IGNORECASE)
    assert "None" not in re.sub(r"None: every hospital", "", text)


def test_nothing_is_said_of_suppression_where_nothing_is_withheld(study_html):
    assert "withheld" not in words(study_html)


def test_a_hostile_name_is_text_and_nothing_else(tmp_path):
    hostile = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "A & B")
    study = write_study_page(a_study_page(names=hostile, title=hostile[0]), tmp_path)
    html = study.read_text(encoding="utf-8")
    parsed(html)
    assert "<script" not in html
    assert "<img" not in html
    for name in hostile:
        assert name in words(html)


def test_a_hostile_file_name_in_a_problem_is_text_and_nothing_else(tmp_path):
    odd = Problem("<img src=x onerror=alert(1)>.jpg", "Not an image.", "Replace it.")
    html = write_site_page(a_site_page(problems=(odd,)), tmp_path).read_text(encoding="utf-8")
    assert "<img" not in html
    assert odd.where in words(html)


def longest_list(value):
    if isinstance(value, dict):
        return max((longest_list(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return max([len(value), *(longest_list(item) for item in value)])
    return 0


def test_nothing_in_the_study_record_grows_with_the_number_of_patients(tmp_path):
    many = 6000
    page = write_study_page(a_study_page(evaluation=pooled(sizes=(many // 3,) * 3)), tmp_path)
    record = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert longest_list(record) <= SETTINGS.score_bins * 1.1


def test_the_study_page_holds_no_patient_and_no_photo(study_html):
    assert "patient_id" not in study_html
    assert not re.search(r"\.(jpe?g|png|heic|csv)\b", study_html, flags=re.IGNORECASE)


def test_the_record_holds_the_same_figures_as_the_page(tmp_path):
    page = a_study_page()
    path = write_study_page(page, tmp_path)
    record = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert path == tmp_path / "study.html"
    assert record["kind"] == "face2bone/study-page"
    assert record["version"] == 1
    accuracy = page.evaluation.groups["all"].metrics["accuracy"]
    assert record["evaluation"]["groups"]["all"]["metrics"]["accuracy"]["value"] == accuracy.value
    assert record["provenance"]["written_at"] == "2026-11-23T14:31:00+00:00"
    assert record["sites"][1]["epsilon_spent"] == 5.93


def test_what_cannot_be_estimated_is_null_in_the_record(tmp_path):
    write_study_page(a_study_page(evaluation=pooled(min_cell=11, sizes=(30, 30, 30))), tmp_path)
    record = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    figure = record["evaluation"]["groups"]["all"]["metrics"]["auc:osteoporosis"]
    assert figure["value"] is None
    assert "small cells" in figure["reason"]


def test_the_site_page_tells_the_cohort_the_photos_and_all_that_left(site_html):
    text = words(site_html)
    for needed in (
        "This page stays at the hospital.",
        "309 patients in the export",
        "9 left out",
        "5 no usable photo",
        "4 premenopausal woman",
        "no face 3 0.9 %",
        "contact sheet",
        "ε 2.10",
        "ε 5.90",
        "ab12ab12ab12ab12",
        "1.67 MB in all",
        "dxa.csv row 12",
        "T-score is 25.",
    ):
        assert needed in text, needed


def test_a_site_page_before_training_is_whole(tmp_path):
    early = a_site_page(
        evaluation=None,
        rounds=(),
        receipts=(),
        problems=(),
        ledger=Ledger(private=False, epsilon_spent=0.0, epsilon_budget=0.0, delta=0.0, noise_multiplier=0.0),
        preparation=Preparation(photos=0, usable=0, quarantined={}),
    )
    html = write_site_page(early, tmp_path).read_text(encoding="utf-8")
    text = words(html)
    parsed(html)
    for needed in (
        "has trained no round yet",
        "Nothing has left this hospital",
        "Differential privacy is off",
        "No photo is in quarantine",
    ):
        assert needed in text
    assert "contact sheet" not in text


def test_many_problems_are_cut_on_the_page_and_whole_in_the_record(tmp_path):
    many = tuple(Problem(f"dxa.csv row {row}", "Odd.", "Look.") for row in range(1, 251))
    html = write_site_page(a_site_page(problems=many), tmp_path).read_text(encoding="utf-8")
    assert "and 50 more" in words(html)
    assert len(json.loads((tmp_path / "site.json").read_text(encoding="utf-8"))["problems"]) == 250


def test_the_same_page_twice_gives_the_same_bytes(tmp_path):
    first = write_study_page(a_study_page(), tmp_path / "a").read_bytes()
    assert write_study_page(a_study_page(), tmp_path / "b").read_bytes() == first


def test_a_report_needs_no_torch():
    code = "import sys, face2bone_model.report.study, face2bone_model.report.site; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the layout cannot be measured")
def test_nothing_overflows_sideways_on_a_phone_or_a_tablet(tmp_path):
    withheld = a_study_page(evaluation=pooled(min_cell=11, sizes=(60, 50, 40)))
    long_name = "Department of Endocrinology and Bone Metabolism, University Hospital, Campus North"
    pages = [
        write_study_page(a_study_page(names=("North", long_name, "C")), tmp_path / "study"),
        write_study_page(withheld, tmp_path / "withheld"),
        write_site_page(a_site_page(), tmp_path / "site"),
    ]
    frames = "".join(
        f'<iframe data-width="{width}" src="{page.as_uri()}" style="width:{width}px;height:600px;border:0"></iframe>'
        for page in pages
        for width in (320, 390, 768, 1280)
    )
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f"<!doctype html><body>{frames}<p id='out'></p><script>onload = () => {{"
        "out.textContent = 'measured ' + [...document.querySelectorAll('iframe')].map(f => {"
        "const s = f.contentDocument.scrollingElement; return s.scrollWidth - s.clientWidth}).join(',')"
        "}</script></body>",
        encoding="utf-8",
    )
    dom = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            wrapper.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    overflows = re.search(r"measured ([-\d,]+)", dom).group(1).split(",")
    assert len(overflows) == len(pages) * 4
    assert set(overflows) == {"0"}


def test_an_unlimited_privacy_loss_is_called_so(tmp_path):
    page = a_study_page()
    sites = (replace(page.sites[1], epsilon_spent=math.inf), *page.sites[2:])
    html = write_study_page(replace(page, sites=sites), tmp_path).read_text(encoding="utf-8")
    assert "ε unbounded of 8.00" in words(html)


def test_a_private_hospital_reads_what_was_spent_by_both_accountants(tmp_path):
    html = write_site_page(a_site_page(), tmp_path).read_text(encoding="utf-8")
    assert "by the tighter PLD accountant" in html
    assert "1.87" in html
    nothing = replace(a_site_page(), ledger=replace(a_site_page().ledger, epsilon_pld=0.0))
    assert "PLD" not in write_site_page(nothing, tmp_path).read_text(encoding="utf-8")

"""The demo over hospitals' own folders, with a real photograph from file to prediction and report."""

import json
from pathlib import Path

import numpy as np
import pytest
from federation_runs import ASTRONAUT, Demo

from f2b_client.prepare import load_prepared
from f2b_client.settings import SiteFolder
from face2bone_model.contract.payload import decode
from face2bone_model.contract.study import load_study
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import load_trainable
from face2bone_model.training.evaluate import predict


def test_a_real_photograph_becomes_a_prepared_face_and_cached_features(
    real_demo: Demo, real_folders: dict[str, Path]
) -> None:
    cohort = load_prepared(SiteFolder(real_folders["north"])).cohort
    row = cohort.photo_rows[cohort.patient_ids.index(ASTRONAUT)][0]
    assert cohort.faces[row].shape == (160, 160, 3)
    assert np.isfinite(cohort.features[row].astype(np.float32)).all()
    assert cohort.features[row].any()


def test_the_released_model_predicts_for_the_real_photograph(
    real_demo: Demo, real_folders: dict[str, Path]
) -> None:
    study = load_study(real_demo.study / "study.toml")
    released = sorted((real_demo.study / "models").glob("round-*.safetensors"))[-1]
    model = build_model(study.model, seed=0)
    load_trainable(model, decode(released.read_bytes())[0])
    cohort = load_prepared(SiteFolder(real_folders["north"])).cohort
    index = cohort.patient_ids.index(ASTRONAUT)
    probabilities = predict(model, cohort.take(np.array([index])))
    assert probabilities.sum() == pytest.approx(1.0)


def test_small_cells_of_real_folders_stay_at_the_hospital(
    real_demo: Demo, real_folders: dict[str, Path]
) -> None:
    assert load_study(real_demo.study / "study.toml").evaluation.min_cell == 11
    record = json.loads((real_demo.study / "reports" / "study.json").read_text())
    assert "withheld" in json.dumps(record)


def test_the_reports_of_real_folders_exist_and_name_no_patient(real_demo: Demo) -> None:
    page = Path(real_demo.result["study_page"]).read_text()
    assert ASTRONAUT not in page
    assert all(Path(path).exists() for path in real_demo.result["site_pages"].values())

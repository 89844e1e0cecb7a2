"""A simulation lies beside its study, and says what its faces are."""

import pytest

from f2b_server.registry.contents import is_synthetic
from f2b_server.simulation.run import lay_out
from face2bone_model.contract.errors import UsageError
from face2bone_model.contract.study import load_study
from face2bone_model.system.files import write_atomic

COMPLETE = 'model_signature = "aa"\nstatistics_signature = "bb"\n'


@pytest.fixture
def study(folder):
    write_atomic(folder.study, COMPLETE.encode() + folder.study.read_bytes())
    return folder


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_simulation_of_rendered_faces_is_marked_so_that_its_released_model_says_so(
    study, tmp_path, synthetic
):
    for site in load_study(study.study).sites:
        (tmp_path / "data" / site).mkdir(parents=True)
    simulation = lay_out(study, tmp_path / "data", synthetic=synthetic)
    assert is_synthetic(simulation) is synthetic
    assert not is_synthetic(study)
    assert simulation.initial.read_bytes() == study.initial.read_bytes()
    assert len(list((simulation.path / "kits").glob("*.kit.zip"))) == 3


def test_a_hospital_without_a_folder_is_named(study, tmp_path):
    (tmp_path / "data" / "harbour").mkdir(parents=True)
    with pytest.raises(UsageError, match="has no folder for hilltop, riverside"):
        lay_out(study, tmp_path / "data", synthetic=True)

"""The hospital's own settings say what is wrong with them."""

import pytest

from f2b_client.settings import SiteFolder, load_compute_settings, load_policy, load_weights_settings
from face2bone_model.contract.errors import SettingsError


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[privacy]\nepsilon = 1", r"policy.toml 'privacy': unknown key 'epsilon'.*epsilon_limit"),
        ("[privacy]\nepsilon_limit = 'low'", r"policy.toml 'privacy' 'epsilon_limit' is 'low'"),
        ("[privacy]\nepsilon_limit = nan", "finite"),
        ("[privacy]\ndelta_limit = inf", "finite"),
        ("[privacy]\nrequire_dp = 'yes'", "'require_dp' is 'yes'.*bool"),
        ("[release]\nmin_cell = 10.5", "'min_cell' is 10.5.*int"),
        ("[secrets]", "unknown key 'secrets'"),
        ("[privacy", "not valid TOML"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_by_file_and_key(folder, text, says):
    folder.policy.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=says):
        load_policy(folder)


def test_a_missing_policy_permits_nothing(folder):
    with pytest.raises(SettingsError, match=r"policy.toml does not exist"):
        load_policy(folder)


def test_tables_of_site_toml_are_read_apart(folder):
    folder.settings.write_text(
        "[compute]\nthreads = 2\ndevice = 'cpu'\n[weights]\nfolder = 'w'\n[dxa]\nx = 1\n", encoding="utf-8"
    )
    assert load_compute_settings(folder).threads == 2
    assert load_compute_settings(folder).device == "cpu"
    assert load_weights_settings(folder).folder == "w"
    folder.settings.write_text("[compute]\nthread = 2\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"site.toml \[compute\]: unknown key 'thread'"):
        load_compute_settings(folder)


def test_everything_of_a_site_lies_in_its_folder(folder):
    places = [value for value in vars(type(folder)).values() if isinstance(value, property)]
    paths = [place.fget(folder) for place in places]
    assert len(set(paths)) == len(paths) >= 12
    assert all(path.is_relative_to(folder.path) for path in paths)

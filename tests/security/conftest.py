"""Property tests take their time on a busy machine. A hospital is shared."""

import pytest
from hypothesis import settings

PATIENTS = 24

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def trunk():
    """The seeded random trunk."""
    from face2bone_model.models.trunk import load_trunk

    return load_trunk(None, seed=0, device="cpu")


@pytest.fixture(scope="session")
def template(tmp_path_factory, trunk):
    """A rendered and prepared hospital full of canaries; tests copy it."""
    from hospital import Template, write_site

    path = tmp_path_factory.mktemp("template") / "site"
    return Template(path, write_site(path, PATIENTS, trunk))

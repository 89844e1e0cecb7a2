"""A new study at the coordinating centre: a commented study.toml, the CA, the model every site starts from."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from f2b_server.certificates import make_ca
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import ProcessError, SettingsError
from face2bone_model.contract.study import Study, load_study
from face2bone_model.system.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class NewStudy:
    """What differs between studies made from the template."""

    name: str
    question: str
    sites: Sequence[str]
    trunk_name: str
    trunk_digest: str
    min_cell: int = 11
    rounds: int = 10


def write_study(folder: StudyFolder, new: NewStudy) -> Study:
    """Write study.toml from the template. An existing one is kept as it is: a changed study is another study.

    Raises:
        SettingsError: a site's name could not be a folder's name, or the template's result is not a study.
    """
    for site in new.sites:
        if not site.replace("-", "").isalnum():
            raise SettingsError(f"'{site}' cannot be a site's name.", "Use letters, digits and hyphens.")
    if not folder.study.exists():
        template = Template(files("f2b_server").joinpath("templates/study.toml").read_text(encoding="utf-8"))
        text = template.substitute(
            name=_quoted(new.name),
            question=_quoted(new.question),
            sites=", ".join(_quoted(site) for site in new.sites),
            trunk_name=_quoted(new.trunk_name),
            trunk_digest=_quoted(new.trunk_digest),
            min_cell=new.min_cell,
            rounds=new.rounds,
        )
        write_atomic(folder.study, text.encode())
    return load_study(folder.study)


def complete_study(folder: StudyFolder) -> Study:
    """Make what a study needs besides its text, where missing: the CA and the initial model.

    Raises:
        SettingsError: study.toml cannot be used.
        ProcessError: the initial model could not be made.
    """
    study = load_study(folder.study)
    make_ca(folder.ca, study.name)
    if not folder.initial.exists():
        command = [
            sys.executable,
            "-m",
            "face2bone_model.models.initial",
            str(folder.study),
            str(folder.initial),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
        if done.returncode != 0:
            raise ProcessError(f"The initial model could not be made: {done.stderr.strip()[-500:]}")
    return study


def _quoted(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for the one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

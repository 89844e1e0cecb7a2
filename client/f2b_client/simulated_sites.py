"""Make folders of photos into hospitals of a simulation: `python -m f2b_client.simulated_sites SIMULATION`.

What each hospital's IT would do by hand: join, approve, prepare. One person owns all folders, and approves for all.
"""

import json
from pathlib import Path
from typing import Any

import typer

from f2b_client.approval import approve
from f2b_client.join import join
from f2b_client.preparation_run import run_preparation
from f2b_client.settings import SiteFolder, load_policy
from face2bone_model.system.command import run_command
from face2bone_model.system.files import write_json

PROGRESS = "sites.json"


def prepare_sites(simulation: Path) -> None:
    """Join, approve and prepare every hospital the simulation lists; `sites.json` says how far it is.

    Raises:
        Face2BoneError: a folder cannot take part; the sentence says which and why.
    """
    listed: dict[str, str] = json.loads((simulation / "simulation.json").read_bytes())["sites"]
    keys: dict[str, str] = {}
    for site, path in sorted(listed.items()):
        folder = SiteFolder(Path(path))
        result = join(folder, simulation / "kits" / f"{site}.kit.zip")
        approve(folder, folder.joined / "study.toml", load_policy(folder))

        def say(done: int, total: int, _detail: str, site: str = site) -> None:
            write_json(simulation / PROGRESS, _progress(site, done, total, keys))

        run_preparation(folder, say)
        keys[site] = result.public_key.read_text(encoding="ascii")
    write_json(simulation / PROGRESS, _progress("", 0, 0, keys))


def _progress(site: str, done: int, total: int, keys: dict[str, str]) -> dict[str, Any]:
    return {"site": site, "done": done, "total": total, "keys": keys}


COMMAND = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@COMMAND.command()
def main(simulation: Path) -> None:
    """Prepare the hospitals of the simulation in this folder."""
    prepare_sites(simulation)


if __name__ == "__main__":
    run_command(COMMAND)

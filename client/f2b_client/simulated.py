"""The ClientApp of a simulation: one process answers for many hospitals, each from its own folder and gate."""

import json
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from typing_extensions import override

from f2b_client.app import SiteApp
from f2b_client.executor import answered
from f2b_client.settings import SiteFolder
from f2b_client.work import SiteWork

WARM_SITES = 8
"""Hospitals a process keeps loaded: model and cohort of each; the least recently asked one makes room."""


class SimulatedSites(ClientApp):
    """Hands every message to the hospital that its partition stands for."""

    @override
    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as that hospital would: approval, policy, ledger, gate and receipts are its own."""
        return answered(lambda: _app_of(context)(message, context), message)  # a fault leaves as its number


def site_folders(simulation: Path) -> tuple[Path, ...]:
    """The hospitals' folders in the order of their partitions, as the simulation's folder lists them."""
    listed = json.loads((simulation / "simulation.json").read_bytes())
    return tuple(Path(folder) for _, folder in sorted(listed["sites"].items()))


def _app_of(context: Context) -> SiteApp:
    folders = site_folders(Path(str(context.run_config["study-folder"])))
    return _site(folders[int(context.node_config["partition-id"])])


@lru_cache(maxsize=WARM_SITES)
def _site(folder: Path) -> SiteApp:
    return SiteApp(SiteWork(SiteFolder(folder), lambda *_: None).answer)


app = SimulatedSites()

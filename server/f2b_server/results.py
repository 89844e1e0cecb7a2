"""Statistics as the sites released them, and the released model: files under `statistics/` and `models/`."""

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from f2b_server.settings import StudyFolder
from face2bone_model.contract.payload import Scalar, decode, encode
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import Study
from face2bone_model.contract.update import ModelSignature, unpack
from face2bone_model.system.files import write_atomic


def save_statistics(folder: StudyFolder, name: str, statistics: Mapping[str, SiteStatistics]) -> None:
    """Keep what each site released, so that reports can be made again without asking again."""
    tensors = {
        f"{site}/{key}": table for site, one in statistics.items() for key, table in one.tables.items()
    }
    write_atomic(
        folder.statistics / f"{name}.safetensors", encode(tensors, {"sites": json.dumps(sorted(statistics))})
    )


def load_statistics(folder: StudyFolder, name: str) -> dict[str, SiteStatistics]:
    """What `save_statistics` kept; empty where nothing was."""
    path = folder.statistics / f"{name}.safetensors"
    if not path.exists():
        return {}
    tensors, header = decode(path.read_bytes())
    sites: list[str] = json.loads(str(header["sites"]))
    return {site: _tables_of(site, tensors) for site in sites}


def _tables_of(site: str, tensors: Mapping[str, NDArray[np.generic]]) -> SiteStatistics:
    prefix = f"{site}/"
    own = {name.removeprefix(prefix): table for name, table in tensors.items() if name.startswith(prefix)}
    return SiteStatistics(tables=own)


def save_release(
    folder: StudyFolder,
    vector: NDArray[np.float32],
    signature: ModelSignature,
    round_number: int,
    study: Study,
) -> None:
    """Write the chosen model with named tensors, for use outside the federation."""
    header: dict[str, Scalar] = {"study_hash": study.hash(), "round": round_number}
    header["trunk_digest"] = signature.trunk_digest
    write_atomic(
        folder.models / f"round-{round_number:03d}.safetensors", encode(unpack(vector, signature), header)
    )

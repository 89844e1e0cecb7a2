"""Statistics as the sites released them, and the released model: files under `statistics/` and `models/`."""

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
    # A container for each site inside one: the header of all tables of many sites would be past its limit.
    inner = {site: np.frombuffer(encode(one.tables, {}), np.uint8) for site, one in statistics.items()}
    write_atomic(folder.statistics / f"{name}.safetensors", encode(inner, {}))


def load_statistics(folder: StudyFolder, name: str) -> dict[str, SiteStatistics]:
    """What `save_statistics` kept; empty where nothing was."""
    path = folder.statistics / f"{name}.safetensors"
    if not path.exists():
        return {}
    inner, _ = decode(path.read_bytes())
    return {site: SiteStatistics(tables=decode(one.tobytes())[0]) for site, one in sorted(inner.items())}


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

"""Make the model every site starts from: `python -m face2bone_model.models.initial STUDY OUT`.

A process of its own, because the coordinating centre needs no torch for anything else.
"""

import json
import sys
from pathlib import Path

from face2bone_model.contract.payload import encode
from face2bone_model.contract.study import load_study
from face2bone_model.contract.update import pack, signature_of
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import trainable_tensors
from face2bone_model.system.files import write_atomic


def write_initial_model(study_path: Path, out: Path) -> None:
    """Write the seeded model of a study as one vector with its signature."""
    study = load_study(study_path)
    tensors = trainable_tensors(build_model(study.model, seed=study.training.seed))
    signature = signature_of(tensors, study.trunk_digest)
    header = {
        "tensors": json.dumps(signature.tensors),
        "trunk_digest": study.trunk_digest,
        "settings": study.model_digest(),
    }
    write_atomic(out, encode({"vector": pack(tensors, signature)}, header))


if __name__ == "__main__":
    write_initial_model(Path(sys.argv[1]), Path(sys.argv[2]))

"""Personal layers of one study at this site: tensors that are trained here and never leave, round by round.

Round r is trained from the tensors after the newest earlier round whose update left this site, so it is trained with
the same bits whenever it is trained again. A round's tensors are written, durably, before its reply may leave, and
count only once it has: what a training that was never released (killed, refused, not paid for) made of them would
otherwise flow into later updates, and past the privacy ledger.

All rounds are kept until the study evaluates one of them on held-out patients: any may turn out to be the best. Then
the rounds before that one go.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2b_client.replies import PRIVATE, ReplyStore
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import RecordsError, RequestError
from face2bone_model.contract.payload import Scalar, decode, digest, encode
from face2bone_model.contract.request import Request
from face2bone_model.system.files import write_atomic

COUNTS = ".safetensors"
WAITS = ".unreleased"
BEGINNING = 0
"""The round before the first: the study's starting model."""

Tensors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class PersonalRounds:
    """The personal tensors of one study at this site, after each round it took part in."""

    folder: SiteFolder
    study_hash: str

    @property
    def path(self) -> Path:
        """Where they lie."""
        return self.folder.personal / self.study_hash

    def before(self, number: int) -> int:
        """The round whose tensors round `number` begins with; `BEGINNING` where none came before.

        A round that was trained before begins as it began then.

        Raises:
            RequestError: that round's tensors are kept no more.
            RecordsError: a file is damaged.
        """
        self._count_released()
        rounds = self._rounds()
        newest = max((one for one in rounds if one < number), default=BEGINNING)
        later = min((one for one in rounds if one >= number), default=None)
        if later is None:
            return newest
        began_with = self._began_with(later)
        if began_with > newest:
            raise RequestError(
                f"The personal tensors before round {number} of this study are kept no more.",
                "The study evaluated a later round on held-out patients; ask for that or a later one.",
            )
        return began_with if later == number else newest

    def read(self, number: int) -> dict[str, NDArray[Any]]:
        """The tensors after a round, by name.

        Raises:
            RecordsError: the file is damaged.
        """
        return _read(self._file(number, COUNTS))[0]

    def put(self, request: Request, began_with: int, tensors: Tensors) -> None:
        """Store what a round made, durable on return; it waits for the release of the round's update."""
        about: dict[str, Scalar] = {"request": request.key, "began_with": began_with}
        content = encode(tensors, about)
        write_atomic(
            self._file(request.round, WAITS), f"{digest(content)}\n".encode() + content, mode=PRIVATE
        )

    def count(self, number: int) -> None:
        """The update of a round left: from now on its tensors count.

        Where the round was trained before and came out differently, the centre went back: later rounds go.
        """
        new, old = self._file(number, WAITS), self._file(number, COUNTS)
        if old.exists() and old.read_bytes() != new.read_bytes():
            for later in self._rounds():
                if later > number:
                    self._file(later, COUNTS).unlink()
        new.replace(old)  # should that not last, `_count_released` does it again

    def forget_before(self, number: int) -> None:
        """Remove the rounds before this one: the study has chosen it, or a model made with it."""
        for path in self.path.glob("*"):
            if path.suffix in {COUNTS, WAITS} and int(path.stem) < number:
                path.unlink()

    def _count_released(self) -> None:
        """Count rounds whose update left just before the process was killed."""
        replies = ReplyStore(self.folder.replies)
        for path in sorted(self.path.glob(f"*{WAITS}")):
            _, about = _read(path)
            if replies.find(self.study_hash, str(about["request"])) is not None:
                self.count(int(path.stem))

    def _began_with(self, number: int) -> int:
        return int(_read(self._file(number, COUNTS))[1]["began_with"])

    def _rounds(self) -> tuple[int, ...]:
        return tuple(sorted(int(path.stem) for path in self.path.glob(f"*{COUNTS}")))

    def _file(self, number: int, suffix: str) -> Path:
        return self.path / f"{number:03d}{suffix}"


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Scalar]]:
    known, _, content = path.read_bytes().partition(b"\n")
    if digest(content).encode() != known:
        raise RecordsError(
            f"{path} is damaged: it holds tensors that this site trains for itself alone.",
            "Restore the folder 'personal' from a backup.",
        )
    return decode(content)

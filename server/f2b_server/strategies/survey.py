"""The first look at a round's updates: what each site trained, and how far it went."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from f2b_server.strategies.blocks import as_block, blocks_of, joined, on_all_cores
from f2b_server.strategies.strategy import SiteUpdate, Vector


@dataclass(frozen=True, kw_only=True)
class Survey:
    """How one update differs from the model received, tensor by tensor."""

    trained: NDArray[np.bool_]
    """Whether the tensor differs in any bit, shape (tensors,)."""
    squares: NDArray[np.float64]
    """Squared length of the step in each tensor, shape (tensors,); not finite where the update is not."""
    coordinates: int
    """Numbers in the tensors it trained."""

    @property
    def finite(self) -> bool:
        """Whether every value of the update is a number."""
        return bool(np.isfinite(self.squares).all())


@dataclass(frozen=True, kw_only=True)
class Part:
    """The tensors that the same sites trained."""

    trainers: tuple[SiteUpdate, ...]
    """At least one, in roster order."""
    spans: tuple[slice, ...]
    """Where these tensors lie, neighbours joined."""


def survey(updates: Sequence[SiteUpdate], received: Vector, spans: Sequence[slice]) -> list[Survey]:
    """Compare each update with the model received; `spans` are the tensors."""
    return on_all_cores(lambda update: _survey_of(update.vector, received, spans), updates)


def _survey_of(vector: Vector, received: Vector, spans: Sequence[slice]) -> Survey:
    trained = np.array([_differs(vector, received, span) for span in spans], np.bool_)
    squares = np.zeros(len(spans))
    for index, span in enumerate(spans):
        squares[index] = _squared_length(vector, received, span) if trained[index] else 0.0
    sizes = np.array([span.stop - span.start for span in spans], np.int64)
    return Survey(trained=trained, squares=squares, coordinates=int(sizes[trained].sum()))


def _differs(vector: Vector, received: Vector, span: slice) -> bool:
    """Whether any bit differs: a site that trained a tensor may return a value that only compares equal."""
    ours, theirs = vector[span].view(np.uint32), received[span].view(np.uint32)
    return any(not np.array_equal(ours[block], theirs[block]) for block in blocks_of((slice(0, len(ours)),)))


def _squared_length(vector: Vector, received: Vector, span: slice) -> float:
    total = 0.0
    with np.errstate(invalid="ignore"):  # an infinite update is found by its length
        for block in blocks_of((span,)):
            step = as_block(vector, block)
            step -= received[block]
            total += float(np.square(step, out=step).sum())
    return total


def parts_of(
    updates: Sequence[SiteUpdate], surveys: Sequence[Survey], spans: Sequence[slice]
) -> tuple[Part, ...]:
    """The tensors by who trained them. One that nobody trained is in no part: it stays as it was.

    A site that returns a tensor bit for bit did not train it (differentially private training may be limited to the
    head) and has no say in it.
    """
    tensors_of: dict[tuple[int, ...], list[slice]] = {}
    for index, span in enumerate(spans):
        trainers = tuple(number for number, one in enumerate(surveys) if one.trained[index])
        tensors_of.setdefault(trainers, []).append(span)
    return tuple(
        Part(trainers=tuple(updates[number] for number in trainers), spans=joined(tensors))
        for trainers, tensors in tensors_of.items()
        if trainers
    )

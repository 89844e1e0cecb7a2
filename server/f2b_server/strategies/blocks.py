"""Arithmetic over long vectors, a block of coordinates at a time, on all cores.

Each coordinate is computed in float64 from the sites in roster order, by itself: neither the size of the blocks, nor
the number of threads, nor the order in which updates arrived changes a bit.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain, pairwise
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.update import ModelSignature

Block = NDArray[np.float64]
"""Some coordinates of a vector, in double precision."""
Item = TypeVar("Item")
Result = TypeVar("Result")

BLOCK = 1 << 15
"""Coordinates at a time: 128 kB of each site, so that the intermediate results stay in a core's own cache."""
_THREADS = min(4, os.cpu_count() or 1)
"""More do not help: memory is the limit by then."""


def tensor_spans(signature: ModelSignature) -> tuple[slice, ...]:
    """Where each tensor of the signature lies in the vectors."""
    ends = accumulate((prod(shape) for _, shape in signature.tensors), initial=0)
    return tuple(slice(start, stop) for start, stop in pairwise(ends))


def joined(spans: Iterable[slice]) -> tuple[slice, ...]:
    """The same coordinates with neighbouring spans made one."""
    found: list[slice] = []
    for span in spans:
        if found and found[-1].stop == span.start:
            found[-1] = slice(found[-1].start, span.stop)
        else:
            found.append(span)
    return tuple(found)


def blocks_of(spans: Sequence[slice], size: int | None = None) -> Iterator[slice]:
    """The spans cut into blocks of at most `size` coordinates, `BLOCK` unless told."""
    size = size or BLOCK
    return chain.from_iterable(
        (slice(start, min(start + size, span.stop)) for start in range(span.start, span.stop, size))
        for span in spans
    )


def on_all_cores(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of each item, in the order of the items. NumPy lets other threads run while it computes."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, items))


def as_block(vector: NDArray[np.float32], block: slice) -> Block:
    """Some coordinates in double precision: a copy."""
    return vector[block].astype(np.float64)

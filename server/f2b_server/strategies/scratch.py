"""Long arrays that live in unnamed files instead of memory: a strategy's state may be many times the model."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from f2b_server.strategies.blocks import Block, as_block, blocks_of
from f2b_server.strategies.strategy import State, Vector


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Where such files are made. They have no name and vanish with the array."""

    size: int
    """Coordinates of every array."""
    folder: Path | None = None
    """None: the system's folder for temporary files, which may itself be memory."""

    def zeros(self) -> Vector:
        """A new array of zeros, shape (size,)."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return np.memmap(file, np.float32, "w+", shape=(self.size,))

    def copy_of(self, state: State, name: str, otherwise: float = 0.0) -> Vector:
        """A copy of an array of the state to write to; filled with one value where the state has none."""
        copy, before = self.zeros(), state.get(name)
        for block in blocks_of((slice(0, self.size),)):
            copy[block] = otherwise if before is None else before[block]
        return copy


def block_or_zeros(state: State, name: str, block: slice) -> Block:
    """Some coordinates of an array of the state, in double precision; zeros where the state has none."""
    before = state.get(name)
    return np.zeros(block.stop - block.start) if before is None else as_block(before, block)

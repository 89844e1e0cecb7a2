"""What both stacks send in the latency benchmark: one array a way, different for every site and round."""

import numpy as np


def first(size):
    """The array a run starts with: `size` bytes of float32 noise."""
    return np.random.default_rng(0).standard_normal(size // 4, dtype=np.float32)


def answer(array, site):
    """A site's reply, without any training: other bytes in every part of the array, so that nothing can be reused."""
    return array + np.float32(1 + site)


def mean(arrays):
    """What the centre makes of the replies: the next array."""
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    total /= np.float32(len(arrays))
    return total

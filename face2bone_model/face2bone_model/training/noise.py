"""Random numbers for differential privacy, drawn from the operating system's cryptographic generator.

Neither the study's seed nor any state of torch or NumPy has a part in them: a coordinator that knows the seed cannot
predict them, and two sites that share it do not repeat each other's. Opacus's own `secure_mode` asks for torchcsprng,
which has no build for current Pythons; torch's CPU generator is a Mersenne Twister, which is not made for secrets.
"""

import math
import secrets

import numpy as np
from numpy.typing import NDArray

_BITS = 53
_DRAWS = 4


def secure_uniform(size: int) -> NDArray[np.float64]:
    """`size` independent numbers, uniform on [0, 1) in steps of 2^-53."""
    words = np.frombuffer(secrets.token_bytes(8 * size), dtype=np.uint64)
    return (words >> np.uint64(64 - _BITS)).astype(np.float64) * 2.0**-_BITS


def secure_normal(size: int) -> NDArray[np.float64]:
    """`size` independent standard normal numbers.

    Each is the sum of four Box-Muller draws divided by two: the sum hides the gaps between floating-point results
    that let an observer undo a single draw (Holohan and Braghin 2021, arXiv 2107.10138, section 5.1). This hardens
    against that attack; it does not prove the mechanism secure on numbers of finite precision.
    """
    half = (size + 1) // 2
    total: NDArray[np.float64] = np.zeros(2 * half)
    for _ in range(_DRAWS):
        radius = np.sqrt(
            -2.0 * np.log1p(-secure_uniform(half))
        )  # 1 - u lies in (0, 1]: the logarithm is finite
        angle = 2.0 * np.pi * secure_uniform(half)
        total += np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return total[:size] / math.sqrt(_DRAWS)

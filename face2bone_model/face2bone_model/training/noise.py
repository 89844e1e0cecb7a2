"""Random numbers for differential privacy, from a cipher keyed afresh by the operating system for every call.

Neither the study's seed nor any state of torch or NumPy has a part in them: a coordinator that knows the seed cannot
predict them, and two sites that share it do not repeat each other's. Opacus's own `secure_mode` asks for torchcsprng,
which has no build for current Pythons; torch's CPU generator is a Mersenne Twister, which is not made for secrets.
"""

import math
import secrets

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

_BITS = 52
_ONE = np.float64(1.0).view(np.uint64)
_DRAWS = 4
_AT_ONCE = 8192
"""Numbers drawn together: few enough for the processor's cache."""


def secure_uniform(size: int) -> NDArray[np.float64]:
    """`size` independent numbers, uniform on [0, 1) in steps of 2^-52."""
    words = np.frombuffer(_key_stream(8 * size), dtype=np.uint64) >> np.uint64(64 - _BITS)
    words |= _ONE  # random digits behind "1.": a number in [1, 2), made faster than by converting an integer
    numbers: NDArray[np.float64] = words.view(np.float64)
    numbers -= 1.0
    return numbers


def secure_normal(size: int) -> NDArray[np.float64]:
    """`size` independent standard normal numbers.

    Each is the sum of four Box-Muller draws divided by two: the sum hides the gaps between floating-point results
    that let an observer undo a single draw (Holohan and Braghin 2021, arXiv 2107.10138, section 5.1). This hardens
    against that attack; it does not prove the mechanism secure on numbers of finite precision.
    """
    parts = [_normal(min(_AT_ONCE, size - start)) for start in range(0, size, _AT_ONCE)]
    return np.concatenate([*parts, np.empty(0)])


def _normal(size: int) -> NDArray[np.float64]:
    half = (size + 1) // 2
    uniform = torch.from_numpy(secure_uniform(2 * _DRAWS * half)).view(2, _DRAWS, half)
    radius = (-2.0 * torch.log1p(-uniform[0])).sqrt()  # 1 - u lies in (0, 1]: the logarithm is finite
    angle = 2.0 * math.pi * uniform[1]  # torch's sine and cosine take a tenth of the time of NumPy's
    normal = torch.cat([(radius * angle.cos()).sum(0), (radius * angle.sin()).sum(0)])
    drawn: NDArray[np.float64] = normal[:size].numpy() / math.sqrt(_DRAWS)
    return drawn


def _key_stream(size: int) -> bytes:
    """`size` bytes of ChaCha20 (RFC 8439) under a new key from the operating system: three times its own pace."""
    cipher = Cipher(algorithms.ChaCha20(secrets.token_bytes(32), bytes(16)), mode=None)  # a key is used once
    return cipher.encryptor().update(bytes(size))

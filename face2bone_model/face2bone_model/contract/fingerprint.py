"""The short form of a public key that hospital and coordinating centre compare by phone."""

import hashlib

DIGITS = 24
GROUP = 4


def fingerprint(public_key: str) -> str:
    """Six groups of four hexadecimal digits of SHA-256 over kind and key of an OpenSSH public key."""
    text = hashlib.sha256(" ".join(public_key.split()[:2]).encode()).hexdigest()[:DIGITS]
    return "-".join(text[i : i + GROUP] for i in range(0, DIGITS, GROUP))

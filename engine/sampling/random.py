"""Counter-based randomness: the number depends on its key alone, never on what was drawn before."""

import hashlib
import struct


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) for a request's seed, its choice and the index of the generated token; 53 random bits."""
    key = struct.pack("<QQQ", seed, choice, position)
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return (bits >> 11) / 2**53

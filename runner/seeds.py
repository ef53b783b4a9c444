"""One stream of random numbers for each purpose, so that no stream shifts another."""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, *purpose: object) -> int:
    """Return the seed of one stream of random numbers, a pure function of its arguments.

    Args:
        seed: of the run.
        purpose: what the stream is for, such as "order" and the epoch.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

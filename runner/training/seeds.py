"""One stream of random numbers for each purpose, so that no stream shifts another."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, *purpose: object) -> int:
    """Return the seed of one stream of random numbers, a pure function of its arguments.

    Args:
        seed: of the run.
        purpose: what the stream is for, such as "order" and the epoch.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's own generators, from which a model draws that has no other.

    Those of GPUs only for a GPU: while none is in use, `torch.manual_seed` puts that off, and keeps the stack of calls
    for a later error, which takes a tenth of a job that trains for a moment.
    """
    import torch  # late: the search of a sweep has no use for it

    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)

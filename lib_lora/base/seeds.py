"""Every random draw has an owner: a seed made of the run's seed and what the draw is for."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass


def derive_seed(seed: int, *owner: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive_seed(42, "noise", epoch, sample)``.

    The same arguments give the same number in every process, interpreter and operating system;
    any other arguments give an unrelated one (BLAKE2b of the arguments' text).
    """
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in owner)])
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class Owner:
    """Who owns the draws of one sample: the run's seed, the epoch (from 1) and the sample's place in the plan."""

    seed: int
    epoch: int
    sample: int

    def generator(self, purpose: str) -> random.Random:
        """The draws of one purpose; another purpose's are unrelated."""
        return random.Random(derive_seed(self.seed, purpose, self.epoch, self.sample))

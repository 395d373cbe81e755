"""Every random draw is keyed by what it is for, never by what was drawn before it.

So a resumed run, another number of workers or an evaluation in between changes nothing.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *keys: str | int) -> int:
    """A 63-bit seed for the purpose named by `keys`, e.g. derive(seed, "train", epoch, step)."""
    text = "\x1f".join(str(part) for part in (seed, *keys))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

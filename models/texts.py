"""Fixed embeddings of short texts, the same on every machine and without downloaded weights.

A word is a direction drawn at random from its own SHA-256, a text the mean over its words. Two texts are as
alike as the words that they share, which is all that is needed to tell which modality and which structure
a network is asked about (hashing: Weinberger et al., ICML 2009).
"""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=1024)
def embedded(text: str, size: int) -> Tensor:
    """Return `(size,)`, the mean of what its words, split at spaces, draw from a standard normal."""
    return torch.stack([_word(word, size) for word in text.lower().split()]).mean(0)


def _word(word: str, size: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") >> 1
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))

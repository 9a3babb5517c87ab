"""A card (GPU) that gives the same bits twice.

Of several ways to compute a convolution's gradient the fastest let threads add into one number in whatever
order they finish, and sums of floats depend on order: two runs of one recipe then drift apart. `repeatable`
asks for the ways with a fixed order. Where torch has none it warns, and names the operation.

Convolutions keep the format TF32 (10 bits of mantissa), torch's default: they are as exact as half precision
and as repeatable as float32. So a card's numbers are not a processor's, nor another kind of card's.
"""

import os

import torch


def repeatable(device: str) -> None:
    """Have this process compute in a fixed order if `device` is a card; for the life of the process."""
    if torch.device(device).type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Whatever is read here was written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]

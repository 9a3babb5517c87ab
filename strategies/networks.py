"""Sort a few vectors against each other, element by element, by minima and maxima alone.

A sorting network is a fixed list of *comparators* `(i, j)`: put the smaller of wires i and j on
i, the larger on j. A wire carries a block of one site's vector, so a comparator is two vector
instructions over thousands of elements, without a branch; a block of every wire fits the cache.
For the handful of sites of a federation this is several times faster than sorting each
element's column.

    merge_exchange(n)       Batcher's network (Knuth, TAOCP vol. 3, 5.2.2, algorithm M)
    prune(network, n, cut)  of it, what the mean of the middle n - 2 cut wires needs
    program(n, cut)         the same as instructions over registers
    middle_mean(rows, cut)  that mean, block by block
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 32_768
"""Elements of a block, 128 KiB a wire: smaller ones drown in calls, larger ones leave the cache."""

Comparator = tuple[int, int, bool, bool]
"""(i, j, is the minimum used, is the maximum used)."""

Instruction = tuple[Callable[..., Any], int, int, int]
"""(minimum or maximum, register, register, register that takes the result)."""


def merge_exchange(n: int) -> Iterator[tuple[int, int]]:
    """Yield the comparators that sort `n` wires, smallest to wire 0."""
    top = 1 << max((n - 1).bit_length() - 1, 0)
    p = top
    while p:
        q, r, d = top, 0, p
        while d:
            yield from ((i, i + d) for i in range(n - d) if i & p == r)
            d, q, r = q - p, q >> 1, p
        p >>= 1


def prune(network: Sequence[tuple[int, int]], n: int, cut: int) -> list[Comparator]:
    """Keep what reaches the sum of the wires `cut` .. `n - cut - 1`.

    Walk back from the outputs. Where nobody looks at a wire, its half of the comparator falls
    away. Where both wires are only summed so does the comparator, since min + max = a + b.
    """
    summed, read = set(range(cut, n - cut)), set[int]()
    kept: list[Comparator] = []
    for i, j in reversed(network):
        used = summed | read
        if {i, j} <= summed or not {i, j} & used:
            continue
        kept.append((i, j, i in used, j in used))
        summed -= {i, j}
        read |= {i, j}
    return kept[::-1]


@lru_cache(maxsize=256)
def program(n: int, cut: int) -> tuple[list[Instruction], list[int], int]:
    """Return (instructions, registers to average, number of registers).

    Registers 0 .. n - 1 are the caller's rows and only read; the rest are scratch blocks, reused
    as soon as both results of a comparator are there.
    """
    wires, free, size = list(range(n)), list[int](), n
    instructions: list[Instruction] = []
    for i, j, low, high in prune(list(merge_exchange(n)), n, cut):
        a, b = wires[i], wires[j]
        for wanted, act, wire in ((low, torch.minimum, i), (high, torch.maximum, j)):
            if wanted:
                wires[wire] = free.pop() if free else size
                size = max(size, wires[wire] + 1)
                instructions.append((act, a, b, wires[wire]))
        free += [register for register in (a, b) if register >= n]
    return instructions, wires[cut : n - cut], size


def middle_mean(rows: Sequence[Tensor], cut: int) -> Tensor:
    """Return, element by element, the mean of what is left without the `cut` least and greatest.

    `rows`: n > 2 cut vectors `(size,)`, which stay as they are. Result `(size,)`.
    """
    instructions, middle, registers = program(len(rows), cut)
    result = torch.empty_like(rows[0])
    scratch = [result.new_empty(min(BLOCK, len(result))) for _ in range(registers - len(rows))]
    for start in range(0, len(result), BLOCK):
        out = result[start : start + BLOCK]
        blocks = [row[start : start + BLOCK] for row in rows] + [spare[: len(out)] for spare in scratch]
        for act, a, b, to in instructions:
            act(blocks[a], blocks[b], out=blocks[to])
        out.copy_(blocks[middle[0]])
        for register in middle[1:]:
            out.add_(blocks[register])
        out.div_(len(middle))
    return result

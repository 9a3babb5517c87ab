"""Every server rule once more, as a plain loop in double precision: slow and obvious.

A twin is called `twin(x, memory, updates)`, changes the two dictionaries of arrays, and is what
the real strategy is judged by.
"""

import math

import numpy as np
from numpy.typing import NDArray

from protocol.update import Update
from strategies.base import sender

Array = NDArray[np.float64]
Arrays = dict[str, Array]


def owners(updates: list[Update], group: str) -> list[tuple[Array, int, Update]]:
    """Return (delta, count, update) of every site that sent `group`."""
    return [
        (u.deltas[group].numpy().astype(np.float64), u.counts[group], u) for u in updates if group in u.deltas
    ]


def owner_mean(updates: list[Update], group: str) -> Array | None:
    """Return the count-weighted mean, None where nobody owns the group."""
    sent = owners(updates, group)
    if not sent:
        return None
    return sum(n * delta for delta, n, _ in sent) / sum(n for _, n, _ in sent)


def fedavg(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    for g in x:
        mean = owner_mean(updates, g)
        if mean is not None:
            x[g] = x[g] + mean


def uniform(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    for g in x:
        sent = owners(updates, g)
        if sent:
            x[g] = x[g] + sum(delta for delta, _, _ in sent) / len(sent)


def zero_fill(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    for g in x:
        total, cases = np.zeros_like(x[g]), 0
        for u in updates:
            n = max(u.counts.values(), default=0)
            sent = u.deltas[g].numpy().astype(np.float64) if g in u.deltas else np.zeros_like(x[g])
            total, cases = total + n * sent, cases + n
        if cases:
            x[g] = x[g] + total / cases


def modality_balanced(x: Arrays, memory: Arrays, updates: list[Update], balance: float = 1.0) -> None:
    """Modality by modality: its mean over the sites, then the mean of these."""
    for g in x:
        total, weight = np.zeros_like(x[g]), 0.0
        kinds = sorted({m for _, _, u in owners(updates, g) for m in u.counts if m.startswith("modality:")})
        for kind in [*kinds, None]:
            moved, cases = np.zeros_like(x[g]), 0.0
            for delta, n, u in owners(updates, g):
                held = {m: count for m, count in u.counts.items() if m.startswith("modality:")}
                if kind is None:
                    part = 0 if held else n
                elif g.startswith("modality:"):
                    part = n if g == kind else 0
                else:
                    part = n * held.get(kind, 0) / max(sum(held.values()), 1)
                moved, cases = moved + part * delta, cases + part
            if cases:
                total, weight = (
                    total + cases ** (1 - balance) * moved / cases,
                    weight + cases ** (1 - balance),
                )
        if weight:
            x[g] = x[g] + total / weight


def half_balanced(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    modality_balanced(x, memory, updates, 0.5)


def fedamm(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    """With `federations.PROTOTYPE`: numbers 4 and 5 of `shared` by owners of FLAIR, site by site."""
    before, flair = x["shared"][4:].copy(), "modality:flair"
    modality_balanced(x, memory, updates)
    moved, cases = np.zeros(2), 0.0
    for delta, n, u in owners(updates, "shared"):
        held = [count for m, count in u.counts.items() if m.startswith("modality:")]
        part = n * u.counts.get(flair, 0) / max(sum(held), 1)
        moved, cases = moved + part * delta[4:], cases + part
    x["shared"][4:] = before + moved / (cases or 1)


def fedavgm(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    for g in x:
        mean = owner_mean(updates, g)
        if mean is not None:
            memory[g] = 0.9 * memory.get(g, np.zeros_like(mean)) + mean
            x[g] = x[g] + 0.5 * memory[g]


def _adaptive(kind: str, x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    rate, beta_1, beta_2, tau = 0.3, 0.8, 0.9, 1e-2
    for g in x:
        d = owner_mean(updates, g)
        if d is None:
            continue
        m = memory.get("m" + g, np.zeros_like(d))
        v = memory.get("v" + g, np.full_like(d, tau**2))
        m = beta_1 * m + (1 - beta_1) * d
        if kind == "adagrad":
            v = v + d**2
        elif kind == "adam":
            v = beta_2 * v + (1 - beta_2) * d**2
        else:
            v = v - (1 - beta_2) * d**2 * np.sign(v - d**2)
        memory["m" + g], memory["v" + g] = m, v
        x[g] = x[g] + rate * m / (np.sqrt(v) + tau)


def fedadagrad(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    _adaptive("adagrad", x, memory, updates)


def fedadam(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    _adaptive("adam", x, memory, updates)


def fedyogi(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    _adaptive("yogi", x, memory, updates)


def fednova(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    for g in x:
        sent = owners(updates, g)
        if not sent:
            continue
        cases = sum(n for _, n, _ in sent)
        direction = sum(n / cases * delta / u.steps for delta, n, u in sent)
        x[g] = x[g] + sum(n / cases * u.steps for _, n, u in sent) * direction


def scaffold(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    """With server_rate 0.7 and half of the sites asked."""
    for g in x:
        sent = owners(updates, g)
        if not sent:
            continue
        cases = sum(n for _, n, _ in sent)
        change = sum(n * u.extras["control"][g].numpy().astype(np.float64) for _, n, u in sent) / cases
        memory[g] = memory.get(g, np.zeros_like(change)) + 0.5 * change
        x[g] = x[g] + 0.7 * sum(n * delta for delta, n, _ in sent) / cases


def norm_bounding(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    bounded: list[Update] = []
    for u in updates:
        norm = u.norm()
        bounded.append(u.scaled(1.5 / norm) if norm > 1.5 else u)
    fedavg(x, memory, bounded)


def dp_fedavg(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    """Without noise; C starts at 2, follows the median, and every site weighs the same."""
    sent = [u for u in updates if u.deltas]
    bound = memory.setdefault("C", np.full((), 2.0))
    norms = [u.norm() for u in sent]
    for g in x:
        bounded = [
            u.deltas[g].numpy().astype(np.float64) * min(1.0, bound / norm)
            for u, norm in zip(sent, norms, strict=True)
            if g in u.deltas
        ]
        if bounded:
            x[g] = x[g] + sum(bounded) / len(bounded)
    if sent:
        share = sum(norm <= bound for norm in norms) / len(sent)
        memory["C"] = bound * math.exp(-0.2 * (share - 0.5))


def median(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    for g in x:
        sent = owners(updates, g)
        if sent:
            x[g] = x[g] + np.median([delta for delta, _, _ in sent], axis=0)


def trimmed_mean(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    """With trim 0.2 of at most seven owners: one at each end from three owners on, two from six on."""
    for g in x:
        sent = np.array([delta for delta, _, _ in owners(updates, g)])
        n = len(sent)
        if not n:
            continue
        cut = 0 if n < 3 else 1 if n < 6 else 2
        for element in range(sent.shape[1]):
            kept = sorted(sent[:, element])[cut : n - cut]
            x[g][element] += sum(kept) / len(kept)


def krum(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    """With f = 1 and m = 2."""
    for g in x:
        sent = [delta for delta, _, _ in owners(updates, g)]
        n = len(sent)
        if not n:
            continue
        if n < 5:
            x[g] = x[g] + np.median(sent, axis=0)
            continue
        scores: list[float] = []
        for i in range(n):
            distances = sorted(float(((sent[i] - sent[j]) ** 2).sum()) for j in range(n) if j != i)
            scores.append(sum(distances[: n - 3]))
        best = sorted(range(n), key=scores.__getitem__)[:2]
        x[g] = x[g] + (sent[best[0]] + sent[best[1]]) / 2


def geometric_median(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    for g in x:
        sent = [delta for delta, _, _ in owners(updates, g)]
        if not sent:
            continue
        z = np.median(sent, axis=0)
        for _ in range(8):
            weights = [1 / max(1e-6, math.sqrt(float(((z - delta) ** 2).sum()))) for delta in sent]
            z = sum(w * delta for w, delta in zip(weights, sent, strict=True)) / sum(weights)
        x[g] = x[g] + z


def fedmsplit(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    """With temperature 0.5, one pair of sites at a time; `memory` holds each site's own blocks."""

    def own(site: Update, g: str) -> Array:
        return memory.get(sender(site) + g, x[g]) + arrays(site)[g] - x[g]

    def attends(site: Update, other: Update, g: str) -> float:
        scores = {
            sender(u): math.exp(cosine(own(site, g), own(u, g)) / 0.5) for _, _, u in owners(updates, g)
        }
        return scores[sender(other)] / sum(scores.values())

    def relation(site: Update, other: Update, g: str) -> float:
        both = [h for h in site.deltas if h in other.deltas]
        return attends(site, other, g) * sum(attends(site, other, h) for h in both) / len(both)

    mixed: Arrays = {}
    for g in x:
        sites = [u for _, _, u in owners(updates, g)]
        for site in sites:
            row = [relation(site, other, g) for other in sites]
            ends = [x[g] + own(other, g) for other in sites]
            mixed[sender(site) + g] = sum(r * end for r, end in zip(row, ends, strict=True)) / sum(row)
    for g in x:
        mixtures = [mixed[sender(u) + g] for _, _, u in owners(updates, g)]
        x[g] = sum(mixtures) / len(mixtures) if mixtures else x[g]
    memory.update(mixed)


def cosine(a: Array, b: Array) -> float:
    """Return the cosine of two vectors."""
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def arrays(update: Update) -> Arrays:
    """Return an update's deltas in double precision."""
    return {g: v.numpy().astype(np.float64) for g, v in update.deltas.items()}


def fedmepd(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    """With the two filters of `federations.KERNEL` and a patience of 1, filter by filter."""
    parts = {"shared": [[0, 1, 4], [2, 3, 5]], "head:tumour": [[0]]}
    for g in x:
        sent = owners(updates, g)
        before = x[g].copy()
        for f, part in enumerate(parts.get(g, [list(range(len(before)))])):
            gone = [f"{sender(u)} {g} {f}" in memory for _, _, u in sent]
            shared = [(delta[part], n) for (delta, n, _), own in zip(sent, gone, strict=True) if not own]
            if not shared:
                continue
            move = sum(n * delta for delta, n in shared) / sum(n for _, n in shared)
            x[g][part] = before[part] + move
            for delta, _, u in sent:
                if delta[part] @ move < 0 and not g.startswith("modality:"):
                    memory[f"{sender(u)} {g} {f}"] = np.ones(1)


def fedmema(x: Arrays, memory: Arrays, updates: list[Update]) -> None:
    """With `site 0` as the server's, and the anchors of `federations.ANCHORED`."""
    for g in x:
        if g.startswith("modality:"):
            mean = owner_mean(updates, g)
            x[g] = x[g] if mean is None else x[g] + mean
            continue
        ends = {sender(u): memory.get(f"{sender(u)} {g}", x[g]) + delta for delta, _, u in owners(updates, g)}
        if g != "head:tumour":
            memory.update({f"{name} {g}": end for name, end in ends.items()})
        x[g] = ends.get("site 0", x[g])

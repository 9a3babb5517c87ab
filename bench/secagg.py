"""What hiding updates costs, at 30 million parameters.

mask      one stream over the vector. Floor: adding numbers that are there already. Beside it: AES
          without fusion (the whole stream, then the sum), and numpy's Philox, which is no secret
site      encode and ten masks: a site's whole work in a round of ten
traffic   bytes of a masked update, its share of letters, keys and signatures included, by float32
round     ten sites, in process, one step each: plain and secure, seconds of training and aggregation
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from bench.aggregation import best
from bench.jobs import cohort, jobs, ours
from privacy.secagg import shamir
from privacy.secagg.fixed import Grid
from privacy.secagg.masks import shift
from protocol.recipe import Part, Secure, Training

SIZE = 30_000_000
SITES = 10
GROUPS = 6


def masks() -> None:
    """Print one mask, and a site's whole work."""
    words, numbers = np.zeros(SIZE, np.uint32), np.ones(SIZE, np.uint32)
    key, zeros = os.urandom(32), bytes(4 * SIZE)
    keys = [os.urandom(32) for _ in range(SITES)]
    generator = np.random.Generator(np.random.Philox(1))
    values, grid = np.full(SIZE, 1e-3, np.float32), Grid(1.0, 10_000, SITES)

    def unfused() -> None:
        stream = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(zeros)
        np.add(words, np.frombuffer(stream, np.uint32), out=words)

    def philox() -> None:
        np.add(words, generator.integers(0, 2**32, SIZE, np.uint32), out=words)

    def site() -> None:
        values.fill(1e-3)
        shift(0, grid.encode(values, 100)[0], keys[:5], keys[5:])

    floor, us, whole, other, all_of_it = best(
        5,
        lambda: np.add(words, numbers, out=words),
        lambda: shift(0, words, [key], []),
        unfused,
        philox,
        site,
    )
    print(
        f"mask     floor (add) {floor:.3f} s   AES unfused {whole:.3f}   Philox {other:.3f}   us {us:.3f} s"
        f"   (processor {busy(lambda: shift(0, words, [key], [])):.3f} s)"
    )
    print(f"site     encode and {SITES} masks {all_of_it:.3f} s")


def busy(work: Callable[[], object]) -> float:
    """Return the least processor seconds of five turns, all threads together, whatever else is running."""
    seconds: list[float] = []
    for _ in range(5):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def traffic() -> None:
    """Print the bytes of a secure round at one site, both ways, by those of float32."""
    share = shamir.P - 1
    letter = len(json.dumps([share, dict.fromkeys(map(str, range(GROUPS)), share)])) + 28
    hexed = 2 * letter * (SITES - 1)
    # Letters up and down, the adverts of all, two lists of signatures, and a share of everything.
    beside = 2 * hexed + SITES * 500 + 2 * SITES * 150 + SITES * GROUPS * 170
    print(
        f"traffic  {(4 * SIZE + beside) / (4 * SIZE):.6f} x float32 ({beside / 1000:.0f} kB beside the model)"
    )


def rounds() -> None:
    """Print a whole round, plain and secure."""
    job = jobs()["big"]
    model = Part("table_mlp", {"hidden": (5470, 5470)})
    plain = replace(job.recipe, model=model, rounds=2, training=Training(steps=1))
    secure = replace(plain, name="secure", secure=Secure(enabled=True))
    seconds: dict[str, float] = {}
    cohorts = [cohort(job, f"s{index}") for index in range(SITES)]
    for recipe in (plain, secure):
        record = ours(replace(job, recipe=recipe, sites=SITES), cohorts)
        seconds[recipe.name] = min(r.seconds["train"] for r in record.rounds)
    us, floor = seconds["secure"], seconds[plain.name]
    print(f"round    plain {floor:.2f} s   secure {us:.2f} s   ratio {us / floor:.2f}")


def main() -> None:
    """Print all lines."""
    print(f"threads {torch.get_num_threads()}, {SITES} sites, {SIZE // 10**6} M parameters")
    masks()
    traffic()
    rounds()


if __name__ == "__main__":
    main()

"""Which patients train, which choose the model, which judge it.

Patients of a site are put in an order that looks random and is always the same (by a hash
of their name), and the order is cut into test, validation and train. Nothing of a recipe's
seed enters: two runs that differ in their seed are judged on the same patients. Counting
within a site, instead of cutting the hash at a threshold, gives every site of three
patients or more at least one in each split.
"""

import hashlib
from collections.abc import Iterable

TRAIN, VALIDATION, TEST = range(3)
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.25
FEWEST = 3


def split_patients(patients: Iterable[str], seed: int = 0) -> dict[str, int]:
    """Return patient -> index into `cohort.SPLITS`; fewer than three patients all train.

    `seed` gives another split of the same patients.
    """
    order = sorted(set(patients), key=lambda name: hashlib.sha256(f"split/{seed}/{name}".encode()).digest())
    test, validation = _part(TEST_SHARE, len(order)), _part(VALIDATION_SHARE, len(order))
    codes = [TEST] * test + [VALIDATION] * validation
    return dict(zip(order, codes + [TRAIN] * (len(order) - len(codes)), strict=True))


def _part(share: float, patients: int) -> int:
    return max(1, round(share * patients)) if patients >= FEWEST else 0

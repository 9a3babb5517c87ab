"""Correlated noise: nearly cancels in sums, and costs what a brute force over participations says."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.sampling import in_turn
from privacy.accounting import Event, epsilon
from privacy.ftrl import CorrelatedNoise, coefficients, influence, stream
from privacy.noise import SecureGenerator
from protocol.errors import PrivacyError

Array = NDArray[np.float64]


def matrix(bands: int, steps: int) -> Array:
    """C, the obvious way: the lower triangular square root of summation, cut to its bands."""
    eigen = np.tril(np.ones((steps, steps)))
    root = np.eye(steps)
    for _ in range(200):  # lower triangular with ones on the diagonal: solve C C = A column by column
        root = np.tril((root + np.linalg.solve(root, eigen)) / 2)
    return np.where(np.subtract.outer(range(steps), range(steps)) < bands, root, 0)


def dearest(bands: int, steps: int, epochs: int, takes_part: Callable[[int], list[list[int]]]) -> float:
    """How far one patient can move C g, over its participations and the signs of its gradients."""
    c = matrix(bands, steps * epochs)
    return max(
        float(np.linalg.norm(c[:, when] @ np.array(signs)))
        for when in takes_part(steps)
        for signs in itertools.product((-1, 1), repeat=len(when))
    )


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("epochs", [1, 3, 4])
@pytest.mark.parametrize("bands", [1, 2, 4, 5])
def test_the_price_of_an_epoch_is_exact(steps: int, epochs: int, bands: int) -> None:
    """Brute force over slots and signs: sqrt(epochs) |c|, never more, and reached."""
    own = min(bands, steps)
    found = dearest(own, steps, epochs, lambda b: [[s + b * e for e in range(epochs)] for s in range(b)])
    assert found == pytest.approx(math.sqrt(epochs) * influence(own), rel=1e-9)


def test_gradients_in_any_direction_are_no_dearer() -> None:
    rng, c = np.random.default_rng(0), matrix(4, 15)
    for _ in range(200):
        moves = rng.normal(size=(3, 6))
        moves /= np.linalg.norm(moves, axis=1, keepdims=True)
        slot = rng.integers(5)
        assert np.linalg.norm(c[:, [slot, slot + 5, slot + 10]] @ moves) <= math.sqrt(3) * influence(4) + 1e-9


def test_more_bands_than_an_epoch_has_steps_are_caught() -> None:
    """A mutant: a patient's participations overlap, and cost more than was paid."""
    dear = dearest(6, 3, 4, lambda b: [[s + b * e for e in range(4)] for s in range(b)])
    assert dear > 1.2 * math.sqrt(4) * influence(6)


def test_slots_drawn_anew_each_epoch_are_caught() -> None:
    """A mutant: last in one epoch and first in the next, a patient takes part twice in a row."""
    dear = dearest(4, 4, 2, lambda b: [[3, 4]])
    assert dear > 1.2 * math.sqrt(2) * influence(4)


def test_rounds_of_whole_epochs_that_are_repeated_are_paid_each_time() -> None:
    """Rows of a round that was taken twice are seen twice: no slot moves them by more than its epochs."""
    c = matrix(3, 12)
    for slot in range(4):
        moved = c[:, [slot + 4 * e for e in range(3)]].sum(1)
        for first in range(3):
            assert np.linalg.norm(moved[4 * first : 4 * first + 4]) <= influence(3) + 1e-9


def test_coefficients_are_those_of_the_square_root() -> None:
    np.testing.assert_allclose(matrix(6, 6)[:, 0], coefficients(6), rtol=1e-9)
    assert coefficients(1) == [1.0]


# -- The noise itself ------------------------------------------------------------------------
def rows_of(noise: CorrelatedNoise | SecureGenerator, steps: int, size: int) -> Array:
    """Steps of noise of stddev 2, each asked for in two pieces."""
    pieces = (size // 3, size - size // 3)
    drawn = [
        torch.cat([noise.normal_(torch.empty(n, dtype=torch.float64), 2.0) for n in pieces])
        for _ in range(steps)
    ]
    return torch.stack(drawn).numpy()


def is_white(seen: Array) -> bool:
    """Whether rows are independent Gaussians of stddev 2, by their covariance."""
    covariance = seen @ seen.T / seen.shape[1]
    return bool(abs(covariance / 4 - np.eye(len(seen))).max() < 0.05)


SIZE, STEPS, BANDS = 20_000, 12, 4


def test_what_is_released_is_noised_in_every_row_of_c() -> None:
    """C n = z: what whoever knows C sees of the noise is independent and of full size."""
    noise = rows_of(CorrelatedNoise(BANDS, SIZE, SecureGenerator()), STEPS, SIZE)
    assert is_white(matrix(BANDS, STEPS) @ noise)
    assert not is_white(noise)


def test_noise_that_takes_nothing_back_is_caught() -> None:
    assert not is_white(matrix(BANDS, STEPS) @ rows_of(SecureGenerator(), STEPS, SIZE))


class Repeating(SecureGenerator):
    """A mutant: a seed that is used for every step."""

    def normal_(self, tensor: Tensor, std: float) -> Tensor:
        return tensor.normal_(0, std, generator=torch.Generator().manual_seed(1))


def test_a_seed_used_again_is_caught() -> None:
    noise = rows_of(CorrelatedNoise(BANDS, SIZE, Repeating()), STEPS, SIZE)
    assert not is_white(matrix(BANDS, STEPS) @ noise)


def test_sums_of_correlated_noise_are_smaller() -> None:
    """Per unit of privacy: 64 steps of which each patient has one."""
    bands = steps = 64
    noise = rows_of(CorrelatedNoise(bands, 2000, SecureGenerator()), steps, 2000) * influence(bands)
    plain = rows_of(SecureGenerator(), steps, 2000)
    sums, plain_sums = (np.sqrt((rows.cumsum(0) ** 2).mean()) for rows in (noise, plain))
    assert sums < 0.6 * plain_sums


def test_one_band_is_independent_noise() -> None:
    assert is_white(rows_of(CorrelatedNoise(1, SIZE, SecureGenerator()), STEPS, SIZE))


# -- Over rounds --------------------------------------------------------------------------------
def test_a_round_goes_on_where_the_last_one_stood() -> None:
    first = stream({}, 9, 6, SIZE, BANDS)
    before = rows_of(first.noise, 5, SIZE)
    again = stream(first.memory(), 9, 6, SIZE, BANDS)
    assert torch.equal(first.slots, again.slots)
    noise = np.concatenate([before, rows_of(again.noise, 7, SIZE)])
    assert is_white(matrix(BANDS, 12) @ noise)


def test_forgetting_the_last_round_is_caught() -> None:
    parts = [rows_of(stream({}, 9, 6, SIZE, BANDS).noise, 6, SIZE) for _ in range(2)]
    assert not is_white(matrix(BANDS, 12) @ np.concatenate(parts))


def test_a_stream_never_has_more_bands_than_an_epoch_has_steps() -> None:
    assert stream({}, 9, 3, 5, 64).influence == influence(3)
    assert len(stream({}, 9, 3, 5, 64).memory()["past"]) == 0


def test_every_patient_has_one_slot_and_takes_part_once_an_epoch() -> None:
    cases_of = [torch.tensor([2 * p, 2 * p + 1]) for p in range(40)]
    slots = stream({}, 40, 5, 1, 2).slots
    assert 0 <= int(slots.min()) <= int(slots.max()) < 5
    batches = list(in_turn(cases_of, slots, 5, 3, SecureGenerator()))
    assert len(batches) == 15
    for epoch in range(3):
        part = batches[5 * epoch : 5 * epoch + 5]
        assert sorted((torch.cat(part) // 2).tolist()) == list(range(40))
        for slot, rows in enumerate(part):
            assert (rows // 2).tolist() == (slots == slot).nonzero().view(-1).tolist()


def test_slots_follow_from_no_seed() -> None:
    def draw() -> Tensor:
        torch.manual_seed(4)
        return stream({}, 60, 10, 1, 2).slots

    assert not torch.equal(draw(), draw())


@pytest.mark.parametrize(("patients", "steps", "size"), [(10, 6, 50), (9, 6, 51), (9, 2, 50)])
def test_another_cohort_or_model_cannot_go_on(patients: int, steps: int, size: int) -> None:
    left = stream({}, 9, 6, 50, 3)
    left.slots[0] = 5
    with pytest.raises(PrivacyError, match="start a new run"):
        stream(left.memory(), patients, steps, size, 3)


def test_epochs_compose_as_gaussians() -> None:
    """Four epochs at noise 2 cost what one Gaussian release at noise 1 costs."""
    assert epsilon([Event(2.0, 1.0, 4)], 1e-5) == pytest.approx(epsilon([Event(1.0, 1.0, 1)], 1e-5), abs=0.02)

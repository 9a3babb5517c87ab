"""Which cases a step sees."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from client.sampling import poisson, seeded, shuffled, steps_a_round
from privacy.noise import SecureGenerator
from protocol.recipe import Training

SEED = (42, "north")


@given(cases=st.integers(1, 40), batch=st.integers(1, 50), epochs=st.integers(1, 3))
def test_every_epoch_sees_every_case_once(cases: int, batch: int, epochs: int) -> None:
    training = Training(batch=batch, epochs=epochs)
    rows = torch.arange(100, 100 + cases)
    seen = torch.cat(list(shuffled(rows, training, SEED, 1)))
    assert torch.equal(seen.sort().values, rows.repeat(epochs).sort().values)


@given(cases=st.integers(1, 20), batch=st.integers(1, 8), steps=st.integers(1, 9), rounds=st.integers(1, 4))
def test_rounds_are_windows_of_one_walk(cases: int, batch: int, steps: int, rounds: int) -> None:
    rows = torch.arange(cases)
    one = [
        b.tolist()
        for n in range(1, rounds + 1)
        for b in shuffled(rows, Training(batch=batch, steps=steps), SEED, n)
    ]
    walk = shuffled(rows, Training(batch=batch, steps=steps * rounds), SEED, 1)
    assert one == [b.tolist() for b in walk]


def test_order_follows_from_seed_site_and_epoch_alone() -> None:
    rows, training = torch.arange(50), Training(batch=50)
    first = next(shuffled(rows, training, SEED, 3))
    torch.rand(7)
    assert torch.equal(first, next(shuffled(rows, training, SEED, 3)))
    assert not torch.equal(first, next(shuffled(rows, training, SEED, 4)))
    assert not torch.equal(first, next(shuffled(rows, training, (42, "south"), 3)))


def test_seeded_leaves_torch_alone() -> None:
    before = torch.random.get_rng_state()
    seeded("a", 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_steps() -> None:
    assert steps_a_round(Training(batch=16, epochs=2), 33) == 6
    assert steps_a_round(Training(batch=16, steps=100), 33) == 100


def test_poisson_takes_at_most_one_case_of_a_patient() -> None:
    cases_of = [torch.arange(3), torch.arange(3, 5), torch.arange(5, 6)]
    for rows in poisson(cases_of, 0.7, 200, SecureGenerator()):
        patients = [next(p for p, own in enumerate(cases_of) if row in own) for row in rows]
        assert len(set(patients)) == len(patients)


def test_poisson_may_draw_nobody() -> None:
    assert any(len(rows) == 0 for rows in poisson([torch.arange(2)], 0.05, 300, SecureGenerator()))


def test_poisson_draws_each_patient_with_the_rate() -> None:
    cases_of = [torch.tensor([p]) for p in range(50)]
    drawn = torch.cat(list(poisson(cases_of, 0.3, 2000, SecureGenerator())))
    share = drawn.bincount(minlength=50) / 2000
    assert float((share - 0.3).abs().max()) < 0.055  # five standard deviations

"""The laws of the update algebra, exactly: on whole-numbered floats addition does not round."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import UpdateError
from protocol.update import Update, Vectors

SIZES = {"shared": 5, "modality:flair": 3, "head:tumour": 1}
WHOLE = st.integers(-1000, 1000).map(float)


@st.composite
def vectors(draw: st.DrawFn) -> Vectors:
    groups = draw(st.sets(st.sampled_from(sorted(SIZES))))
    return {
        g: torch.tensor(draw(st.lists(WHOLE, min_size=SIZES[g], max_size=SIZES[g]))) for g in sorted(groups)
    }


@st.composite
def updates(draw: st.DrawFn) -> Update:
    deltas = draw(vectors())
    counts = {group: draw(st.integers(1, 500)) for group in deltas}
    names = draw(st.sets(st.sampled_from(["control", "momentum"])))
    return Update(deltas, counts, float(draw(st.integers(0, 50))), {name: draw(vectors()) for name in names})


def plain(update: Update) -> object:
    """Everything an update says, comparable."""
    extras = {name: {g: v.tolist() for g, v in inner.items()} for name, inner in update.extras.items()}
    return {g: v.tolist() for g, v in update.deltas.items()}, dict(update.counts), update.steps, extras


@given(updates(), updates())
def test_addition_commutes(u: Update, v: Update) -> None:
    assert plain(u + v) == plain(v + u)


@given(updates(), updates(), updates())
def test_addition_associates(u: Update, v: Update, w: Update) -> None:
    assert plain((u + v) + w) == plain(u + (v + w))


@given(updates())
def test_the_empty_update_is_zero(u: Update) -> None:
    assert plain(u + Update({}, {})) == plain(u)


@given(updates(), updates())
def test_a_group_that_one_side_lacks_counts_as_zero(u: Update, v: Update) -> None:
    total = u + v

    for group in u.deltas.keys() | v.deltas.keys():
        zero = torch.zeros(SIZES[group])
        assert torch.equal(total.deltas[group], u.deltas.get(group, zero) + v.deltas.get(group, zero))
        assert total.counts[group] == u.counts.get(group, 0) + v.counts.get(group, 0)
    assert list(total.deltas) == sorted(total.deltas)


@given(updates(), updates(), st.sampled_from([-2.0, 0.0, 0.5, 3.0]))
def test_scaling_distributes_over_the_vectors_and_leaves_counts_alone(u: Update, v: Update, a: float) -> None:
    left, right = (u + v).scaled(a), u.scaled(a) + v.scaled(a)

    assert plain(left) == plain(right)
    assert dict(u.scaled(a).counts) == dict(u.counts)
    assert u.scaled(a).steps == u.steps


@given(updates())
def test_the_norm_is_that_of_all_groups_as_one_vector(u: Update) -> None:
    together = torch.cat([*u.deltas.values(), torch.zeros(1)]).double()

    assert u.norm() == pytest.approx(float(together.norm()), rel=1e-12)


@given(updates(), st.sampled_from([-2.0, 0.0, 0.5, 3.0]))
def test_the_norm_scales(u: Update, a: float) -> None:
    assert u.scaled(a).norm() == pytest.approx(abs(a) * u.norm(), rel=1e-12)


def test_the_norm_neither_overflows_nor_vanishes() -> None:
    """Squares of float32 are summed in double precision: 1e30 squared is no float32."""
    assert Update({"shared": torch.full((4,), 1e30)}, {}).norm() == pytest.approx(2e30)
    assert Update({"shared": torch.full((4,), 1e-30)}, {}).norm() == pytest.approx(2e-30)
    assert math.isnan(Update({"shared": torch.tensor([math.nan])}, {}).norm())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_vectors_of_other_sizes_do_not_add(size: int) -> None:
    """Torch would broadcast a (1,) into a (3,)."""
    with pytest.raises(UpdateError, match=rf"group 'shared': \(3,\) and \({size},\) do not add"):
        Update({"shared": torch.ones(3)}, {"shared": 1}) + Update({"shared": torch.ones(size)}, {"shared": 1})


def test_adding_changes_neither_side() -> None:
    u, v = Update({"shared": torch.ones(2)}, {"shared": 1}), Update({"shared": torch.ones(2)}, {"shared": 2})
    before = plain(u), plain(v)

    u + v

    assert (plain(u), plain(v)) == before

"""What modality-balanced weights do, beside being their twin's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protocol.update import Update
from strategies import modality_balanced as module
from strategies.base import Strategy
from strategies.modality_balanced import modality_balanced, shares


def site(delta: float, cases: int, **held: int) -> Update:
    """Return a site whose groups all move by `delta`; `held` is cases with each modality."""
    counts = {"shared": cases} | {f"modality:{name}": count for name, count in held.items()}
    return Update({group: torch.tensor([delta]) for group in counts}, counts)


def moved(strategy: Strategy, *sites: Update) -> dict[str, float]:
    """Return where the groups go from zero."""
    groups = {group for each in sites for group in each.deltas}
    state = strategy.step(strategy.init({g: torch.zeros(1) for g in groups}), sites)
    return {group: float(vector) for group, vector in state.parameters.items()}


NINE_AND_ONE = (site(0.0, 90, t1=90), site(1.0, 10, flair=10))


def check_equal_say() -> None:
    """One site in ten holds FLAIR, all others T1: each modality has half of the shared group."""
    assert moved(modality_balanced(), *NINE_AND_ONE)["shared"] == pytest.approx(0.5)


def test_every_modality_has_the_same_say() -> None:
    check_equal_say()
    assert moved(modality_balanced(balance=0.0), *NINE_AND_ONE)["shared"] == pytest.approx(0.1)


def test_weights_that_ignore_modalities_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shares", lambda counts: {"": 1.0})
    with pytest.raises(AssertionError):
        check_equal_say()


def test_a_modalitys_own_group_is_its_owners_mean() -> None:
    sites = (site(0.0, 30, t1=30, flair=30), site(1.0, 10, t1=10))
    assert moved(modality_balanced(), *sites)["modality:t1"] == pytest.approx(0.25)


def test_a_site_without_modality_groups_is_a_kind_of_its_own() -> None:
    sites = (site(1.0, 10), site(0.0, 30, t1=30), site(0.0, 30, t1=30))
    assert moved(modality_balanced(), *sites)["shared"] == pytest.approx(0.5)


@given(
    st.dictionaries(st.sampled_from(["shared", "head:a", "modality:t1", "modality:t2"]), st.integers(0, 500))
)
def test_shares_are_shares(counts: dict[str, int]) -> None:
    """Of modalities that some case has, and one in sum."""
    found = shares(counts)
    assert sum(found.values()) == pytest.approx(1.0)
    assert all(0 < share <= 1 for share in found.values())
    assert all(not kind or counts[kind] for kind in found)

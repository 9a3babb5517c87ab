"""Private rounds at a site: other mechanisms than plain DP-SGD, as whole runs."""

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from client import training
from client.site import Site, open_site
from client.spending import planned
from client.training import correlated, private
from client.training import train as honest_train
from privacy.accounting import Event, epsilon
from privacy.dpsgd import PrivateGradient
from privacy.ftrl import influence
from protocol.errors import RecipeError
from protocol.messages import Task
from protocol.recipe import Part, Privacy, Recipe, Training, dump_recipe, load_recipe
from protocol.update import Update
from server.report import render
from tests.federation import Federation, cohorts, recipe
from tests.privacy.test_ftrl import matrix

FTRL = recipe(
    privacy=Privacy(epsilon=50.0, noise_multiplier=6.0, mechanism="ftrl", bands=3),
    training=Training(batch=2, epochs=2, rate=0.05),
    rounds=2,
)
SITE_LEVEL = recipe(strategy=Part("dp_fedavg", {"unit": "site", "noise_multiplier": 2.0}))


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, cohorts(), monkeypatch)


def memories(federation: Federation, site: str) -> list[Path]:
    return sorted((federation.folder / "run" / "sites" / site).rglob("round-*.safetensors"))


# -- FTRL -----------------------------------------------------------------------------------------
def test_a_run_with_correlated_noise_says_what_it_spent(federation: Federation) -> None:
    record = federation.run(FTRL)
    for ended in record.rounds:
        assert [site.status for site in ended.sites] == ["accepted"] * 3
        (north, *_) = ended.sites
        assert north.epsilon == epsilon([Event(6.0, 1.0, 2 * ended.number)], 1 / 80)
        assert 0 <= north.epsilon - north.epsilon_pld <= 0.012


@pytest.mark.slow
def test_the_budget_is_turned_into_an_epochs_noise(federation: Federation) -> None:
    private = Privacy(epsilon=8.0, mechanism="ftrl")
    whole = recipe(privacy=private, training=Training(batch=2, epochs=2))
    noise = planned(open_site(federation.settings("run", "north"), dump_recipe(whole))).event.noise_multiplier
    assert 7.9 < epsilon([Event(noise, 1.0, 6)], 1 / 80) <= 8.0


def test_an_epoch_is_one_event_at_rate_one(federation: Federation) -> None:
    site = open_site(federation.settings("run", "north"), dump_recipe(FTRL))
    spending = planned(site)
    assert (spending.event.sampling_rate, spending.event.steps) == (1.0, 2)
    assert (spending.slots, len(spending.cases_of), spending.expected_batch) == (4, 8, 2.0)


def seen_in_c(site: Site, *, forgets: bool = False) -> np.ndarray:
    """The covariance over steps of C times two rounds' gradients, which are noise almost alone."""
    spending, steps, kept = planned(site), [], {}
    for _ in range(2):
        noise = correlated(site, spending, {} if forgets else kept)
        steps += [torch.cat(list(site.flat.grads.values())) for _ in private(site, spending, noise)]
        kept = {"noise": noise.memory()}
    stddev = spending.event.noise_multiplier * influence(3) / spending.expected_batch
    seen = matrix(3, len(steps)) @ torch.stack(steps).double().numpy() / stddev
    return seen @ seen.T / seen.shape[1]


def test_noise_is_correlated_over_the_steps_of_all_rounds(federation: Federation) -> None:
    """C times what is released is white; a site that forgets its noise between rounds is caught."""
    loud = recipe(
        privacy=Privacy(8.0, noise_multiplier=900.0, mechanism="ftrl", bands=3),
        training=Training(batch=2, epochs=1),
        model=Part("parallel_unet", {"channels": (16, 32)}),
    )
    site = open_site(federation.settings("run", "north"), dump_recipe(loud))
    assert abs(seen_in_c(site) - np.eye(8)).max() < 0.06
    assert abs(seen_in_c(site, forgets=True) - np.eye(8)).max() > 0.2


def rounds_at(federation: Federation, *numbers: int) -> list[Update]:
    """What north answers in rounds of these numbers, one after the other."""
    text = dump_recipe(FTRL)
    site = open_site(federation.settings("run", "north"), text)
    vectors = {group: vector.clone() for group, vector in site.flat.vectors.items()}
    found = []
    for place, number in enumerate(numbers):
        update = honest_train(site, Task("train", "run", number, text, f"attempt{place}", vectors)).update
        found.append(replace(update, deltas={g: v.clone() for g, v in update.deltas.items()}))
    return found


def test_what_is_still_to_be_taken_back_stays_at_the_site_and_is_its_owners(federation: Federation) -> None:
    sent = rounds_at(federation, 1, 2)
    left = [load_file(path) for path in memories(federation, "north")]
    assert [memory["noise/past"].shape[0] for memory in left] == [2, 2]
    assert torch.equal(left[0]["noise/slots"], left[1]["noise/slots"])
    assert not torch.equal(left[0]["noise/past"], left[1]["noise/past"])
    assert {stat.S_IMODE(path.stat().st_mode) for path in memories(federation, "north")} == {0o600}
    assert all(not update.extras and "noise" not in update.deltas for update in sent)


def test_a_repeated_round_goes_on_from_the_same_past_with_fresh_noise(federation: Federation) -> None:
    """The same noise under two gradients would cancel."""
    _, first, second = rounds_at(federation, 1, 2, 2)
    slots = [load_file(path)["noise/slots"] for path in memories(federation, "north")]
    assert torch.equal(*slots)
    assert not (first.deltas["shared"] == second.deltas["shared"]).float().mean() > 0.01


def test_ftrl_takes_whole_epochs() -> None:
    with pytest.raises(RecipeError, match=r"training\.steps: privacy\.mechanism ftrl takes whole epochs"):
        load_recipe(dump_recipe(FTRL), ["training.steps=3"])


# -- Group by group -------------------------------------------------------------------------------
def test_groups_are_bounded_by_themselves_when_the_recipe_says_so(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[int] = []

    class Watched(PrivateGradient):
        def __init__(self, *args: object, **given: object) -> None:
            super().__init__(*args, **given)
            blocks.append(len(self._blocks))

    monkeypatch.setattr(training, "PrivateGradient", Watched)
    for clipping in ("flat", "per_group"):
        whole = recipe(privacy=Privacy(epsilon=8.0, noise_multiplier=2.0, clipping=clipping))
        for name in ("north", "south"):
            site = open_site(federation.settings("run", name), dump_recipe(whole))
            next(private(site, planned(site)))
    assert blocks == [1, 1, 4, 3]  # south has no t1


# -- A site's own privacy ---------------------------------------------------------------------------
def report(federation: Federation, whole: Recipe) -> str:
    return render(federation.run(whole), whole, ())


def test_site_level_privacy_is_never_told_as_a_patients(federation: Federation) -> None:
    text = report(federation, SITE_LEVEL)
    assert "What the models hide of a site" in text
    assert "Unit: one site, not one patient" in text
    assert "per site, not per patient" in text
    assert "No differential privacy: nothing is promised." in text  # to patients


def test_patients_and_sites_are_told_apart_where_both_are_promised(federation: Federation) -> None:
    both = recipe(
        strategy=SITE_LEVEL.strategy,
        privacy=Privacy(epsilon=8.0, noise_multiplier=3.0),
        training=Training(batch=4, steps=1),
        rounds=1,
    )
    text = report(federation, both)
    assert "Unit: one patient." in text
    assert "Unit: one site, not one patient" in text


def test_no_site_is_told_an_epsilon_by_the_strategy(federation: Federation) -> None:
    record = federation.run(SITE_LEVEL)
    assert all(site.epsilon is None for ended in record.rounds for site in ended.sites)
    assert [ended.releases for ended in record.rounds] == [1, 2, 3]


def test_a_model_of_a_lost_round_counts(federation: Federation) -> None:
    """Killed after round 2 was noised and seen, before its checkpoint: it is made again, and both count."""

    def dies(number: int, news: object) -> None:
        if number == 2 and hasattr(news, "scores"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federation.run(SITE_LEVEL, watch=dies)
    record = federation.run(SITE_LEVEL)
    assert [ended.number for ended in record.rounds] == [1, 2, 3]
    assert record.rounds[-1].releases == 4


def test_strategies_that_promise_nothing_release_nothing(federation: Federation) -> None:
    record = federation.run(recipe(rounds=1))
    assert record.rounds[0].releases == 0
    assert not (federation.folder / "run" / "releases").exists()

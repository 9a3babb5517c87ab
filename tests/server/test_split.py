"""Rounds whose noise is split over the sites, through the real server and site code."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.site import open_site
from client.spending import history
from models.objectives import case_losses
from privacy import split as room
from privacy.accounting import Event, alone, epsilon
from privacy.noise import SecureGenerator
from protocol.errors import QuorumError
from protocol.recipe import Head, Modality, Part, Privacy, Recipe, Secure, Training, dump_recipe
from protocol.update import Vectors
from server import checkpoint
from server.book import unflatten
from server.card import card
from server.record import Round, SiteRound, read_record
from server.report import render
from tests.client.hospital import cohort
from tests.federation import Federation
from tests.secure import SecureFederation, dying

PATIENTS = {"centre": 11, "east": 9, "north": 14, "south": 8, "west": 10}
"""Of them all but four train."""
SHARES, CLIP, DELTA, LEARNING = 2, 0.3, 1e-3, 0.4
PAID = Event(2.0, 1.0, 1, SHARES)

RECIPE = Recipe(
    "split",
    {"table": Modality("table", 3)},
    {"disease": Head("classification", 1, Part("bce"))},
    Part("memory"),
    Part("table_mlp", {"hidden": (64,)}),
    rounds=1,
    training=Training(steps=1, rate=LEARNING),
    privacy=Privacy(epsilon=20.0, delta=DELTA, noise_multiplier=2.0, clip_norm=CLIP, sampling_rate=1.0),
    secure=Secure(enabled=True, threshold=0.5, noise_over=SHARES),
)


class Wards(SecureFederation):
    """Five hospitals with one row of a table a patient."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        held = {site: replace(cohort(number), site=site) for site, number in PATIENTS.items()}
        Federation.__init__(self, folder, held, patch)

    def parameters(self, number: int) -> Vectors:
        """The parameters after round `number`."""
        path = self.folder / "run" / "checkpoints" / f"round-{number:06d}.checkpoint"
        return unflatten(checkpoint._read(path).vectors).parameters


@pytest.fixture
def wards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wards:
    return Wards(tmp_path, monkeypatch)


def _silent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SecureGenerator, "normal_", lambda self, tensor, std: tensor.zero_())


def _clipped_sum(wards: Wards, site: str, start: Vectors) -> dict[str, Tensor]:
    """The plain way: one patient after the other, by autograd."""
    opened = open_site(wards.settings("run", site), dump_recipe(RECIPE))
    opened.flat.train_only(list(start))
    opened.flat.load(start)
    total = {group: torch.zeros_like(vector) for group, vector in start.items()}
    for row in opened.rows:
        for grad in opened.flat.grads.values():
            grad.zero_()
        batch = opened.cohort.cases.map(lambda x, row=row: x[row : row + 1])
        case_losses(opened.flat.model(batch), batch, RECIPE.heads, opened.objectives).sum().backward()
        norm = torch.cat(list(opened.flat.grads.values())).norm()
        for group, grad in opened.flat.grads.items():
            total[group] += grad * min(1.0, CLIP / float(norm))
    return total


@pytest.mark.parametrize("gone", [(), pytest.param(("south",), marks=pytest.mark.slow)])
def test_without_its_noise_the_round_is_one_step_along_the_clipped_sum_of_all_patients(
    wards: Wards, monkeypatch: pytest.MonkeyPatch, gone: tuple[str, ...]
) -> None:
    _silent(monkeypatch)
    dying(monkeypatch, "contribute", *gone)
    wards.run(RECIPE)
    start, end = wards.parameters(0), wards.parameters(1)
    here = [site for site in PATIENTS if site not in gone]
    sums = [_clipped_sum(wards, site, start) for site in here]
    count = sum(PATIENTS[site] - 4 for site in here)
    unit = 2.0 * CLIP / room.FINENESS
    for group, vector in start.items():
        wanted = vector - LEARNING / count * sum(each[group] for each in sums)
        torch.testing.assert_close(end[group], wanted, rtol=0, atol=unit * LEARNING * len(here) / count)


@pytest.mark.slow
def test_the_noise_of_a_round_is_the_recipe_s_and_more_by_what_nobody_dropped(
    wards: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is drawn, so that noise is all there is: 321 parameters give its stddev within a fifth."""
    drawn = list[float]()
    honest = SecureGenerator.normal_

    def noting(self: SecureGenerator, tensor: Tensor, std: float) -> Tensor:
        drawn.append(std)
        return honest(self, tensor, std)

    monkeypatch.setattr(SecureGenerator, "normal_", noting)
    monkeypatch.setattr(SecureGenerator, "poisson_sample", lambda self, n, rate: torch.empty(0).long())
    wards.run(replace(RECIPE, privacy=replace(RECIPE.privacy, sampling_rate=0.5)))
    start, end = wards.parameters(0), wards.parameters(1)
    moved = torch.cat([end[group] - start[group] for group in start])
    count = sum(PATIENTS.values()) - 4 * len(PATIENTS)
    target = LEARNING / 0.5 / count * 2.0 * CLIP
    assert float(moved.std()) / target == pytest.approx((len(PATIENTS) / SHARES) ** 0.5, rel=0.2)
    assert set(drawn) - {0.0} == {room.FINENESS / SHARES**0.5}


def test_the_ledger_counts_the_sum_s_noise_and_the_reply_tells_the_site_s_own_beside_it(wards: Wards) -> None:
    record = wards.run(replace(RECIPE, rounds=2))
    whole = replace(PAID, steps=2)
    for site in PATIENTS:
        assert history(wards.settings("run", site).books) == (PAID, PAID)
    for told in record.rounds[-1].sites:
        assert told.epsilon == epsilon([whole], DELTA)
        assert told.epsilon_alone == epsilon(alone([whole]), DELTA) > 1.3 * (told.epsilon or 0)
        assert told.noise_multiplier == 2.0


def test_record_report_and_card_say_what_is_assumed_and_what_holds_without(wards: Wards) -> None:
    record = wards.run(RECIPE)
    written = read_record(wards.folder / "run")
    assert written.rounds[0].sites == record.rounds[0].sites
    lone = f"north {next(s for s in record.rounds[0].sites if s.site == 'north').epsilon_alone:.3f}"
    for page in (render(record, RECIPE, ()), card(record, RECIPE)):
        assert "as long as 2 sites of each sum are honest" in page
        assert "so 1 of them may collude" in page
        assert lone in page
    unsplit = replace(RECIPE, secure=Secure(enabled=True))
    assert "noise is split" not in render(record, unsplit, ()) + card(record, unsplit)


def test_too_few_contributors_end_the_round_and_show_nothing(
    wards: Wards, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(RECIPE, secure=replace(RECIPE.secure, fewest=5, noise_over=4))
    dying(monkeypatch, "contribute", "south")
    with pytest.raises(QuorumError, match="no group has enough contributors left"):
        wards.run(strict)


@pytest.mark.slow
def test_a_round_that_is_asked_again_is_another_release_and_paid_again(wards: Wards) -> None:
    with pytest.raises(KeyboardInterrupt):
        wards.run(RECIPE, watch=_interrupt)
    wards.run(RECIPE)
    assert history(wards.settings("run", "north").books) == (PAID, PAID)


def _interrupt(number: int, news: SiteRound | Round) -> None:
    raise KeyboardInterrupt

"""Secure rounds through the real server and site code: the same learning, and nothing in the clear."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client import secure as client_secure
from client.app import ANSWERS
from client.site import Site
from privacy.keys import FEDERATION, read_pins
from privacy.secagg.fixed import Grid
from protocol.errors import QuorumError, RecipeError
from protocol.messages import Reply, Task
from protocol.recipe import Part, Privacy, Roster, Training
from protocol.update import Vectors
from server import admission, checkpoint
from server.book import unflatten
from server.record import Round, SiteRound
from strategies.catalogue import STRATEGIES, SUMMED, check_summed
from tests.federation import recipe
from tests.secure import PATIENTS, SecureFederation, dying, secure_recipe

STEPS = ("advertise", "share", "contribute", "agree", "reveal")


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecureFederation:
    return SecureFederation(tmp_path, monkeypatch)


def _final(federation: SecureFederation, run: str = "run") -> Vectors:
    return unflatten(checkpoint.load(federation.folder / run / "checkpoints").vectors).parameters


def _bound(federation: SecureFederation, sites: tuple[str, ...] = tuple(PATIENTS)) -> float:
    """The most by which rounding may move a mean, over the groups."""
    grid = Grid(1.0, 10_000, len(PATIENTS))
    least = min(len(federation.held[site].rows("train")) for site in sites)
    return len(sites) / 2 * grid.step_of(len(sites) * least) + 1e-7


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedprox", "fedbn", "fedper", "ditto"])
def test_a_secure_round_is_the_plain_round_within_the_stated_bound(
    federation: SecureFederation, strategy: str
) -> None:
    whole = secure_recipe(strategy=Part(strategy))
    record = federation.run(whole, "secure")
    federation.run(replace(whole, secure=recipe().secure), "plain")
    secured, plain = _final(federation, "secure"), _final(federation, "plain")
    for group in plain:
        torch.testing.assert_close(secured[group], plain[group], rtol=1e-6, atol=_bound(federation))
    assert {s.site: s.status for s in record.rounds[0].sites} == dict.fromkeys(PATIENTS, "accepted")


@pytest.mark.parametrize("strategy", ["fedadagrad", "fedadam", "fedyogi"])
def test_adaptive_servers_run_on_the_sum(federation: SecureFederation, strategy: str) -> None:
    federation.run(secure_recipe(strategy=Part(strategy, {"tau": 0.1})), "secure")
    federation.run(recipe(rounds=1, training=Training(batch=8, rate=0.05), strategy=Part(strategy, {"tau": 0.1})), "plain")
    secured, plain = _final(federation, "secure"), _final(federation, "plain")
    for group in plain:
        torch.testing.assert_close(secured[group], plain[group], rtol=1e-3, atol=1e-4)


def test_what_leaves_a_site_is_masked_and_alone(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply holds integers, masked counts, no step count and no loss; two runs send different ones."""
    seen: list[Reply] = []
    honest = ANSWERS["contribute"]

    def noting(site: Site, task: Task) -> Reply:
        reply = honest(site, task)
        if site.settings.site == "north":
            assert reply.update is not None
            seen.append(replace(reply, update=replace(reply.update, deltas={g: v.clone() for g, v in reply.update.deltas.items()})))
        return reply

    monkeypatch.setitem(ANSWERS, "contribute", noting)
    for run in ("one", "two"):
        federation.run(secure_recipe(), run)
    one, two = (reply.update for reply in seen)
    assert one is not None
    assert two is not None
    assert all(vector.dtype == torch.int32 for vector in one.deltas.values())
    for group, vector in one.deltas.items():
        assert not torch.equal(vector, two.deltas[group])
        assert abs(float(vector.double().mean())) < 2**31 * 0.15
    assert one.steps == 0
    assert one.counts != two.counts
    assert all(set(reply.facts) == {"seconds"} for reply in seen)


def test_traffic_is_that_of_a_plain_round(federation: SecureFederation) -> None:
    secured = federation.run(secure_recipe(), "secure").rounds[0].sites
    plain = federation.run(recipe(rounds=1), "plain").rounds[0].sites
    assert {s.site: (s.bytes_up, s.bytes_down) for s in secured} == {s.site: (s.bytes_up, s.bytes_down) for s in plain}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_site_that_dies_in_a_step_is_in_the_sum_exactly_if_it_contributed(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch, step: str, after: bool  # noqa: FBT001
) -> None:
    """And the plain round over the same sites gives the same parameters."""
    here = tuple(PATIENTS) if step in ("agree", "reveal") else tuple(s for s in PATIENTS if s != "south")
    federation.run(secure_recipe(secure=secure_recipe().secure.__class__(), roster=Roster(train=here)), "plain")
    dying(monkeypatch, step, "south", after=after)
    record = federation.run(secure_recipe(), "secure")
    secured, plain = _final(federation, "secure"), _final(federation, "plain")
    for group in plain:
        torch.testing.assert_close(secured[group], plain[group], rtol=1e-6, atol=_bound(federation, here))
    (south,) = (s for s in record.rounds[0].sites if s.site == "south")
    assert south.status == ("accepted" if "south" in here else "failed")
    assert south.reason == f"{step}: MemoryError: the site's own log says more"


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_the_round_ends_and_a_later_one_completes(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    whole = secure_recipe()
    with monkeypatch.context() as patch:
        dying(patch, step, "east", "south", "west")
        with pytest.raises(QuorumError, match=rf"2 sites are left after '{step}', a sum needs 3 .*east"):
            federation.run(whole)
    revealed = step == "reveal"
    federation.run(whole)
    assert len(read_rounds(federation)) == 1
    assert _seen(federation, "north")["1"].get("contributed", None) is not None
    del revealed


def read_rounds(federation: SecureFederation) -> list[str]:
    return (federation.folder / "run" / "rounds.jsonl").read_text().splitlines()


def _seen(federation: SecureFederation, site: str) -> dict[str, dict[str, list[str]]]:
    return json.loads((federation.settings("run", site).state / "run" / client_secure.SAW).read_text())


def test_a_group_of_two_owners_keeps_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = SecureFederation(tmp_path, monkeypatch, ("north", "south", "west"))
    record = few.run(secure_recipe())
    assert {s.groups for s in record.rounds[0].sites} == {("head:tumour", "modality:flair", "shared")}
    untrained = few.folder / "run" / "checkpoints" / "round-000000.checkpoint"
    before = unflatten(checkpoint._read(untrained).vectors).parameters
    after = _final(few)
    assert torch.equal(before["modality:t1"], after["modality:t1"])
    assert not torch.equal(before["shared"], after["shared"])


def test_two_sites_are_too_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SecureFederation(tmp_path, monkeypatch, ("north", "south"))
    with pytest.raises(QuorumError, match="2 sites are too few"):
        few.run(secure_recipe())

"""What FedAMM's prototypes follow: their owners alone, whatever others send."""

from pathlib import Path

import pytest
import torch

from models.catalogue import build_model
from models.flat import Flat
from protocol.recipe import Head, Part, Privacy
from protocol.update import Update
from server.checkpoint import load
from strategies import fedamm as module
from strategies.base import Local
from strategies.fedamm import fedamm, taught
from tests.federation import RECIPE, Federation, cohorts, recipe
from tests.models.cases import recipe_for
from tests.strategies.federations import PROTOTYPE, laid_out


def site(delta: float, theirs: float, cases: int, **held: int) -> Update:
    """Return a site that moves `shared` by `delta` and in it what stands for FLAIR by `theirs`."""
    counts = {"shared": cases} | {f"modality:{name}": count for name, count in held.items()}
    moved = {group: torch.full((6 if group == "shared" else 1,), delta) for group in counts}
    moved["shared"][4:] = theirs
    return Update(moved, counts)


def shared(*sites: Update) -> list[float]:
    """Return where `shared` goes from 1."""
    strategy = laid_out(fedamm(), PROTOTYPE)
    groups = {group for each in sites for group in each.deltas}
    parameters = {group: torch.ones(6 if group == "shared" else 1) for group in groups}
    return strategy.step(strategy.init(parameters), sites).parameters["shared"].tolist()


def check_noise_of_others() -> None:
    """Nine sites hold T1 and send noise for FLAIR; one holds FLAIR. The rest is `modality_balanced`."""
    quiet, loud = (shared(site(0.0, noise, 90, t1=90), site(1.0, 0.5, 10, flair=10)) for noise in (0.0, 99.0))
    assert quiet == loud == pytest.approx([1.5] * 4 + [1.5] * 2)
    assert shared(site(0.0, 99.0, 90, t1=90)) == [1.0] * 6


def test_what_others_send_for_a_modality_does_not_count() -> None:
    check_noise_of_others()


def test_a_mean_over_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "taught", lambda layout: ())
    with pytest.raises(AssertionError):
        check_noise_of_others()


def test_each_modality_s_prototypes_are_found_in_the_network() -> None:
    layout = Flat(build_model(recipe_for("fedamm"))).layout
    found = {modality: (group, part.stop - part.start) for modality, group, part in taught(layout)}
    assert found == dict.fromkeys(("flair", "t1"), ("head:scan", 3 * 8))


def test_sites_know_nothing_of_it() -> None:
    assert (fedamm().local, fedamm().sends) == (Local(), ())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Part("fedamm"), Part("fedmema", {"server": "west"})])
def test_a_private_federation_learns_what_a_site_lacks(
    strategy: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prototypes and anchors move and are accounted; nobody is asked for what it does not own."""
    asked = recipe(
        heads={**RECIPE.heads, "scan": Head("pretext", 1, Part("own"))},
        model=Part(strategy.name, {"channels": (4, 8)}),
        strategy=strategy,
        privacy=Privacy(epsilon=8.0, delta=1e-3),
        rounds=1,
    )
    before = Flat(build_model(asked)).vectors["head:scan"]
    (ended,) = Federation(tmp_path, cohorts(), monkeypatch).run(asked).rounds
    assert all(site.status == "accepted" and 0 < site.epsilon <= 8 for site in ended.sites)
    assert {site.site: "modality:t1" in site.groups for site in ended.sites}["south"] is False
    after = load(tmp_path / "run" / "checkpoints").vectors["parameters/head:scan"]
    assert (after != before).any()
    assert after.isfinite().all()

"""A taught round: by whom, on what, and what of it leaves."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client import teaching
from client.sampling import seeded, shuffled
from client.site import open_site
from client.teaching import Lesson
from client.training import train, varied
from models import distillation
from models.catalogue import build_model
from models.flat import Flat
from models.objectives import total_loss
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.messages import Task
from protocol.recipe import Part, Training, dump_recipe, load_recipe
from protocol.update import Update, Vectors
from tests.federation import Federation, cohorts, recipe
from tests.models.invariance import refilled

WEIGHT, TEMPERATURE = 2.0, 3.0
TAUGHT = recipe(
    strategy=Part("modality_distillation", {"weight": WEIGHT, "temperature": TEMPERATURE}),
    training=Training(batch=4, rate=0.5, modality_dropout=0.6, flips=True),
)
TEXT = dump_recipe(TAUGHT)
SITE = "north"


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, cohorts(), monkeypatch)


def drawn(federation: Federation, site: str) -> Vectors:
    """The untrained parameters of the groups that `site` owns."""
    owned = open_site(federation.settings("run", site), TEXT).owned
    return {g: v for g, v in Flat(build_model(TAUGHT)).vectors.items() if g in owned}


def sent(federation: Federation, site: str = SITE) -> Update:
    """What `site` answers in a round that starts at `drawn`."""
    opened = open_site(federation.settings("run", site), TEXT)
    update = train(opened, Task("train", "run", 1, TEXT, "a", drawn(federation, site))).update
    assert update is not None
    return replace(update, deltas={group: delta.clone() for group, delta in update.deltas.items()})


def bernoulli(chance: Tensor, other: Tensor) -> Tensor:
    return chance * (chance / other).log()


def by_hand(federation: Federation) -> Vectors:
    """The same round as a loop: two networks, plain gradient descent."""
    site, start = open_site(federation.settings("run", SITE), TEXT), drawn(federation, SITE)
    site.flat.load(start)
    student, teacher = deepcopy(site.flat.model), deepcopy(site.flat.model)
    optimiser = torch.optim.SGD(student.parameters(), TAUGHT.training.rate)
    changes = seeded(TAUGHT.seed, SITE, "changes", 1)
    for rows in shuffled(site.rows, TAUGHT.training, (TAUGHT.seed, SITE), 1):
        whole = site.cohort.cases.map(lambda x, rows=rows: x[rows])
        batch = varied(whole, TAUGHT, changes)
        outputs = student(batch)
        p = (teacher(batch.seeing(whole.present))["tumour"] / TEMPERATURE).sigmoid().detach()
        q = (outputs["tumour"] / TEMPERATURE).sigmoid()
        apart = (bernoulli(p, q) + bernoulli(1 - p, 1 - q)).mean()
        loss = total_loss(outputs, batch, TAUGHT.heads, site.objectives)
        optimiser.zero_grad()
        (loss + WEIGHT * TEMPERATURE**2 * apart).backward()
        optimiser.step()
    ended = dict(student.named_parameters())
    return {
        group: torch.cat([ended[slot.name].detach().flatten() for slot in slots]) - start[group]
        for group, slots in site.flat.layout.groups.items()
    }


def check_round(federation: Federation) -> None:
    found = sent(federation).deltas
    for group, delta in by_hand(federation).items():
        torch.testing.assert_close(found[group], delta, rtol=1e-4, atol=1e-5)


def test_a_round_by_hand(federation: Federation) -> None:
    check_round(federation)


def _what_the_student_sees(self: Lesson, batch: Batch, present: Tensor) -> Batch:
    return _honest(self, batch, batch.present)


_honest = Lesson.taught


def _without_t_squared(*given: object) -> Tensor:
    return _divergence(*given) / TEMPERATURE**2


_divergence = distillation.divergence


@pytest.mark.parametrize(
    ("where", "what", "broken"),
    [
        (Lesson, "taught", _what_the_student_sees),
        (teaching, "deepcopy", lambda model: model),  # a teacher that changes with its student
        (distillation, "divergence", _without_t_squared),
    ],
)
def test_another_teacher_is_caught(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    what: str,
    broken: Callable[..., object],
) -> None:
    monkeypatch.setattr(where, what, broken)
    with pytest.raises(AssertionError):
        check_round(federation)


def test_absent_content_moves_nothing_and_absent_groups_stay(federation: Federation) -> None:
    """South has no T1: whatever stands in its place, the update is the same bits, and none of T1's."""
    expected = sent(federation, "south").deltas
    assert sorted(expected) == ["head:tumour", "modality:flair", "shared"]
    south = federation.held["south"]
    federation.held["south"] = replace(south, cases=refilled(south.cases, south.modalities, float("nan")))
    open_site.cache_clear()
    found = sent(federation, "south").deltas
    assert all(torch.equal(delta, expected[group]) for group, delta in found.items())
    assert found.keys() == expected.keys()


def test_with_nothing_hidden_there_is_nothing_to_teach() -> None:
    with pytest.raises(RecipeError, match=r"training\.modality_dropout: .* 0 hides nothing; give 0\.5"):
        load_recipe(TEXT, ["training.modality_dropout=0"])


def test_a_federation_is_taught_privately(federation: Federation) -> None:
    private = ["privacy.epsilon=8", "privacy.delta=0.001", "rounds=2", "training.batch=8"]
    record = federation.run(load_recipe(TEXT, private))
    for ended in record.rounds:
        assert [site.status for site in ended.sites] == ["accepted"] * 3
        assert all(0 < site.epsilon <= 8 for site in ended.sites)

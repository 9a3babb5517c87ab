"""A taught round: by whom, on what, and what of it leaves."""

from collections.abc import Callable
from copy import copy, deepcopy
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
from imaging.cohort import Cohort
from models import distillation
from models.base import MultiModal
from models.catalogue import build_model
from models.flat import Flat
from models.objectives import total_loss
from models.zoo.mm_dino import MMDino
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.messages import Task
from protocol.recipe import Evaluation, Head, Part, Recipe, Training, dump_recipe, load_recipe
from protocol.update import Update, Vectors
from tests.federation import Federation, cohorts, recipe
from tests.models.invariance import refilled

WEIGHT, TEMPERATURE = 2.0, 3.0
TRAINING = Training(batch=4, rate=0.5, modality_dropout=0.6, flips=True)
TAUGHT = recipe(
    strategy=Part("modality_distillation", {"weight": WEIGHT, "temperature": TEMPERATURE}),
    training=TRAINING,
)
TOLD = recipe(
    heads={"grade": Head("classification", 2, Part("ce")), "views": Head("pretext", 1, Part("dino"))},
    model=Part("mm_dino", {"patch": 2, "size": 8, "depth": 1, "attention_heads": 2, "bottleneck": 4}),
    training=TRAINING,
    evaluation=Evaluation(select="grade/auroc"),
)
"""By the strategy, and by the model's own pretext."""
SITE = "north"


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, {name: graded(each) for name, each in cohorts().items()}, monkeypatch)


def graded(cohort: Cohort) -> Cohort:
    """The same patients, each with a grade."""
    targets = {**cohort.cases.targets, "grade": cohort.patient % 2}
    labelled = {**cohort.cases.labelled, "grade": cohort.cases.labelled["tumour"]}
    return replace(cohort, cases=replace(cohort.cases, targets=targets, labelled=labelled))


def drawn(federation: Federation, recipe: Recipe, site: str) -> Vectors:
    """The untrained parameters of the groups that `site` owns."""
    owned = open_site(federation.settings("run", site), dump_recipe(recipe)).owned
    return {g: v for g, v in Flat(build_model(recipe)).vectors.items() if g in owned}


def sent(federation: Federation, recipe: Recipe, site: str = SITE) -> Update:
    """What `site` answers in a round that starts at `drawn`."""
    text = dump_recipe(recipe)
    opened = open_site(federation.settings("run", site), text)
    update = train(opened, Task("train", "run", 1, text, "a", drawn(federation, recipe, site))).update
    assert update is not None
    return replace(update, deltas={group: delta.clone() for group, delta in update.deltas.items()})


def bernoulli(chance: Tensor, other: Tensor) -> Tensor:
    return chance * (chance / other).log()


def apart(student: MultiModal, teacher: MultiModal, batch: Batch, whole: Batch) -> tuple[Tensor, Batch]:
    """The divergence that the strategy adds to the objectives' loss."""
    p = (teacher(whole)["tumour"] / TEMPERATURE).sigmoid().detach()
    q = (student(batch)["tumour"] / TEMPERATURE).sigmoid()
    return WEIGHT * TEMPERATURE**2 * (bernoulli(p, q) + bernoulli(1 - p, 1 - q)).mean(), batch


def told(student: MultiModal, teacher: MultiModal, batch: Batch, whole: Batch) -> tuple[Tensor, Batch]:
    """The pretext's target, from the same crops with nothing hidden."""
    assert isinstance(teacher, MMDino)
    rows = {name: said.detach() for name, said in teacher.tell(whole).items()}
    return torch.zeros(()), replace(batch, targets={**batch.targets, **rows})


ROUNDS = {"modality_distillation": (TAUGHT, apart), "mm_dino": (TOLD, told)}


def by_hand(federation: Federation, name: str) -> Vectors:
    """The same round as a loop: two networks, plain gradient descent."""
    recipe, teach = ROUNDS[name]
    site = open_site(federation.settings("run", SITE), dump_recipe(recipe))
    start = drawn(federation, recipe, SITE)
    site.flat.load(start)
    student, teacher = deepcopy(site.flat.model), deepcopy(site.flat.model)
    optimiser = torch.optim.SGD(student.parameters(), recipe.training.rate)
    changes = seeded(recipe.seed, SITE, "changes", 1)
    for rows in shuffled(site.rows, recipe.training, (recipe.seed, SITE), 1):
        whole = site.cohort.cases.map(lambda x, rows=rows: x[rows])
        batch = varied(whole, recipe, changes)
        more, batch = teach(student, teacher, batch, batch.seeing(whole.present))
        loss = total_loss(student(batch), batch, recipe.heads, site.objectives)
        optimiser.zero_grad()
        (loss + more).backward()
        optimiser.step()
    ended = dict(student.named_parameters())
    return {
        group: torch.cat([ended[slot.name].detach().flatten() for slot in slots]) - start[group]
        for group, slots in site.flat.layout.groups.items()
    }


def check_round(federation: Federation, name: str) -> None:
    found = sent(federation, ROUNDS[name][0]).deltas
    for group, delta in by_hand(federation, name).items():
        torch.testing.assert_close(found[group], delta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ROUNDS)
def test_a_round_by_hand(federation: Federation, name: str) -> None:
    check_round(federation, name)


def _what_the_student_sees(self: Lesson, batch: Batch, present: Tensor) -> Batch:
    return _honest(self, batch, batch.present)


_honest = Lesson.taught


def _without_t_squared(*given: object) -> Tensor:
    return _divergence(*given) / TEMPERATURE**2


_divergence = distillation.divergence


_WRONG = [
    (Lesson, "taught", _what_the_student_sees),
    (teaching, "deepcopy", copy),  # a teacher that changes with its student
]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, wrong) for name in ROUNDS for wrong in _WRONG]
    + [("modality_distillation", (distillation, "divergence", _without_t_squared))],
)
def test_another_teacher_is_caught(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    wrong: tuple[object, str, Callable[..., object]],
) -> None:
    monkeypatch.setattr(*wrong)
    with pytest.raises(AssertionError):
        check_round(federation, name)


@pytest.mark.parametrize(
    ("recipe", "groups"),
    [(TAUGHT, ["head:tumour", "modality:flair", "shared"]), (TOLD, ["modality:flair", "shared"])],
    ids=ROUNDS,
)
def test_absent_content_moves_nothing_and_absent_groups_stay(
    federation: Federation, recipe: Recipe, groups: list[str]
) -> None:
    """South has no T1: whatever stands in its place, the update is the same bits, and none of T1's."""
    expected = sent(federation, recipe, "south").deltas
    assert sorted(expected) == groups
    south = federation.held["south"]
    federation.held["south"] = replace(south, cases=refilled(south.cases, south.modalities, float("nan")))
    open_site.cache_clear()
    found = sent(federation, recipe, "south").deltas
    assert all(torch.equal(delta, expected[group]) for group, delta in found.items())
    assert found.keys() == expected.keys()


def test_with_nothing_hidden_there_is_nothing_to_teach() -> None:
    with pytest.raises(RecipeError, match=r"training\.modality_dropout: .* 0 hides nothing; give 0\.5"):
        load_recipe(dump_recipe(TAUGHT), ["training.modality_dropout=0"])


@pytest.mark.parametrize("recipe", [TAUGHT, TOLD], ids=ROUNDS)
def test_a_federation_is_taught_privately(federation: Federation, recipe: Recipe) -> None:
    private = ["privacy.epsilon=8", "privacy.delta=0.001", "rounds=2", "training.batch=8"]
    record = federation.run(load_recipe(dump_recipe(recipe), private))
    for ended in record.rounds:
        assert [site.status for site in ended.sites] == ["accepted"] * 3
        assert all(0 < site.epsilon <= 8 for site in ended.sites)

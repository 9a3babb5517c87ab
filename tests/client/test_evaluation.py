"""A model is scored on whole patients, by what it is allowed to see and nothing else."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from client import evaluation
from client.evaluation import evaluate, predict, subsets_of
from imaging.cohort import Cohort
from models.metrics import measure
from protocol.batch import Batch
from protocol.metrics import Tally
from protocol.recipe import Head, Modality, Part, Recipe

MODALITIES = ("flair", "t1", "t2")
RECIPE = Recipe(
    "test",
    {name: Modality() for name in MODALITIES},
    {"tumour": Head("segmentation"), "grade": Head("classification")},
    Part("none"),
    Part("none"),
)
PATTERNS = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 1]], dtype=torch.bool)
"""What each of four patients has, of `MODALITIES`."""


class Averaging(nn.Module):
    """The mean of the visible images, as a segmentation and pooled as a classification."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.batches: list[int] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert not self.training
        self.batches.append(len(batch))
        seen = torch.stack([batch.present[:, i, None, None, None] for i in range(len(MODALITIES))])
        images = torch.where(seen, torch.stack([batch.inputs[name] for name in MODALITIES]), 0.0)
        mean = self.scale * images.sum(0) / seen.sum(0)
        return {"tumour": mean, "grade": mean.flatten(2).mean(2) - 0.05}


class Peeking(Averaging):
    """A mutant that looks behind the mask."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return super().forward(batch.seeing(torch.ones_like(batch.present)))


def cohort(slices: int = 3, absent: float = torch.nan) -> Cohort:
    """Return four patients of 8x8 slices, the first for training; `absent` fills what they lack."""
    generator, count = torch.Generator().manual_seed(0), 4 * slices
    patient = torch.arange(count) // slices
    present = PATTERNS[patient]
    images = torch.randn(len(MODALITIES), count, 1, 8, 8, generator=generator)
    inputs = {
        name: torch.where(present[:, i, None, None, None], images[i], absent)
        for i, name in enumerate(MODALITIES)
    }
    masks = (torch.randn(count, 1, 8, 8, generator=generator) > 0.5).float()
    targets = {"tumour": masks, "grade": patient % 2}
    labelled = {"tumour": patient < 3, "grade": torch.ones(count).bool()}
    split = torch.tensor([0, 2, 2, 2])[patient]
    cases = Batch(inputs, present, targets, labelled)
    return Cohort("north", MODALITIES, tuple("abcd"), patient, split, cases, (1.0, 1.0))


def by_hand(
    model: nn.Module, site: Cohort, rows: Sequence[int], seen: Sequence[str] | None
) -> dict[str, Tally]:
    """Return the scores of `rows` in one batch, from the definition."""
    here, found = torch.tensor(rows), {}
    present = site.cases.present[here]
    if seen is not None:
        present = torch.tensor([name in seen for name in MODALITIES]).expand_as(present)
    outputs = model.eval()(site.cases.map(lambda x: x[here]).seeing(present))
    for name, head in RECIPE.heads.items():
        kept = [i for i, row in enumerate(rows) if site.cases.labelled[name][row]]
        if kept:
            there = here[kept]
            tallies = measure(
                head,
                outputs[name][kept],
                site.cases.targets[name][there],
                site.patient[there],
                site.spacing_mm,
                distances=True,
            )
            found |= {f"{name}/{metric}": tally for metric, tally in tallies.items()}
    return found


def test_own_scores_each_case_with_what_it_has() -> None:
    """Test cases alone; the tumour on patients 1 and 2, who have its mask, the grade on all three."""
    model, site = Averaging(), cohort()
    scores = evaluate(model, site, RECIPE, "test", None)

    assert scores == {"own": by_hand(model, site, range(3, 12), None)}
    assert scores["own"]["tumour/dice"].count == 2
    assert scores["own"]["grade/accuracy"].count == 9


def test_a_subset_is_scored_on_those_who_have_all_of_it() -> None:
    """And they see just that; `flair` is owned by all, `t1` by one patient, who has no mask."""
    model, site = Averaging(), cohort()
    scores = evaluate(model, site, RECIPE, "test", subsets_of(MODALITIES))

    assert list(scores) == ["flair", "t1", "t2", "flair+t1", "flair+t2", "t1+t2", "flair+t1+t2"]
    assert scores["flair"] == by_hand(model, site, range(3, 12), ["flair"])
    assert scores["flair+t2"] == by_hand(model, site, range(6, 12), ["flair", "t2"])
    assert scores["t1"] == by_hand(model, site, range(9, 12), ["t1"])
    assert "tumour/dice" not in scores["t1"]


def test_a_subset_that_nobody_has_is_left_out() -> None:
    """No zero and no NaN in its place."""
    site = cohort()
    without = replace(site, cases=site.cases.seeing(site.cases.present & torch.tensor([True, False, True])))

    assert "t1" not in evaluate(Averaging(), without, RECIPE, "test", subsets_of(MODALITIES))
    assert evaluate(Averaging(), without, RECIPE, "test", [("t1", "t2")]) == {}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_without_cases_has_no_scores(split: str) -> None:
    """A site may have nothing to validate on."""
    site = cohort()
    empty = replace(site, split=torch.zeros_like(site.split))

    assert evaluate(Averaging(), empty, RECIPE, split, None) == {}


def test_absent_contents_change_no_score() -> None:
    """NaN, zeros or noise where a modality is absent, or hidden: every tally is the same."""
    subsets = subsets_of(MODALITIES)
    clean = evaluate(Averaging(), cohort(), RECIPE, "test", subsets)

    for content in (0.0, 1e6, -torch.inf):
        assert evaluate(Averaging(), cohort(absent=content), RECIPE, "test", subsets) == clean
    assert evaluate(Peeking(), cohort(absent=1e6), RECIPE, "test", subsets) != clean
    hidden = cohort()
    hidden.cases.inputs["t2"].fill_(9.0)
    assert evaluate(Averaging(), hidden, RECIPE, "test", [("flair", "t1")])["flair+t1"] == clean["flair+t1"]


@pytest.mark.parametrize("at_once", [1, 64, 7 * 64, 10**6])
def test_mini_batches_do_not_cut_patients(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any size of mini-batch, the same tallies: patients are put together before they are measured."""
    whole = evaluate(Averaging(), cohort(), RECIPE, "test", None)
    monkeypatch.setattr(evaluation, "VALUES_AT_ONCE", at_once)
    model = Averaging()

    assert evaluate(model, cohort(), RECIPE, "test", None) == whole
    assert max(model.batches) <= max(1, at_once // 64)
    assert sum(model.batches) == 9


def test_distances_are_for_the_test_split() -> None:
    """Validation happens every round and selects a model: the slow metric stays out of it."""
    site = cohort()
    validation = replace(site, split=torch.where(site.split == 2, 1, 0))

    assert "tumour/hd95_mm" in evaluate(Averaging(), site, RECIPE, "test", None)["own"]
    assert "tumour/hd95_mm" not in evaluate(Averaging(), validation, RECIPE, "validation", None)["own"]


def test_nothing_is_recorded_for_a_gradient() -> None:
    """Outputs carry no graph, and parameters no gradient."""
    model, site = Averaging(), cohort()
    rows = site.rows("test")
    outputs = predict(model, site.cases, rows, site.cases.present[rows])

    assert not any(logits.requires_grad for logits in outputs.values())
    assert outputs["tumour"].shape == (9, 1, 8, 8)
    assert model.scale.grad is None

"""Signals: a table whose columns are samples, read along time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.catalogue import build_model, build_objectives
from models.objectives import case_losses
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.recipe import Head, Modality, Part, Recipe
from tests.models.cases import batch_for, presence, subsets
from tests.models.invariance import leaks
from tests.privacy.neighbours import SLACK, sensitivity

LEADS, SAMPLES = 2, 64
OPTIONS = {"dims": 2, "channels": (8, 8)}
RECIPE = Recipe(
    "r",
    {"flair": Modality(), "ecg": Modality("table", LEADS * SAMPLES)},
    {"falls": Head("classification", 1, Part("bce"))},
    Part("d"),
    Part("volume_classifier", {**OPTIONS, "signals": {"ecg": LEADS}}),
)
AS_A_TABLE = replace(RECIPE, model=Part("volume_classifier", OPTIONS))
HAVING = batch_for(RECIPE, presence(RECIPE, subsets(tuple(RECIPE.modalities))))


def hearts(seed: int, earliest: int, cases: int = 32) -> Batch:
    """One beat each, `earliest` or up to 20 samples later, that rises first or falls first."""
    batch = batch_for(RECIPE, presence(RECIPE, [("ecg",)] * cases), seed=seed)
    middle = earliest + 20 * torch.rand(cases, 1, generator=torch.Generator().manual_seed(seed))
    place = (torch.arange(SAMPLES) - middle) / 3
    beat = (2 * batch.targets["falls"][:, None] - 1) * 3 * place * (-place.square() / 2).exp()
    waves = torch.stack([beat, -beat], 1).flatten(1) + 0.1 * batch.inputs["ecg"]
    known = {"falls": torch.ones(cases, dtype=torch.bool)}
    return replace(batch, inputs={**batch.inputs, "ecg": waves}, labelled=known)


def accuracy(recipe: Recipe) -> float:
    """Trained on early beats, of late ones."""
    model, objectives, batch = build_model(recipe), build_objectives(recipe), hearts(1, 8)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        case_losses(model(batch), batch, recipe.heads, objectives).mean().backward()
        optimiser.step()
    test = hearts(2, 36)
    return float(((model(test)["falls"][:, 0] > 0) == test.targets["falls"]).float().mean())


def test_a_beat_is_known_wherever_it_is_and_from_a_plain_table_where_it_was() -> None:
    assert accuracy(RECIPE) > 0.8
    assert accuracy(AS_A_TABLE) < 0.5


def test_leads_lie_one_after_another() -> None:
    """Silence in the second lead is silence in the second half of the columns."""
    model = build_model(RECIPE)
    encoder = model.get_submodule("encoders.modality:ecg")
    assert isinstance(encoder[0], nn.Sequential)
    kernel = encoder[0][0].weight
    assert kernel.shape == (8, LEADS, 7)
    with torch.no_grad():
        kernel[:, 1] = 0  # reads the first lead alone
    changed = HAVING.inputs["ecg"].clone()
    changed[:, SAMPLES:] = 5
    other = replace(HAVING, inputs={**HAVING.inputs, "ecg": changed})
    assert torch.equal(model(other)["falls"], model(HAVING)["falls"])


def test_an_absent_signal_changes_nothing_and_one_patient_little() -> None:
    model, objectives = build_model(RECIPE), build_objectives(RECIPE)
    assert leaks(model, HAVING, RECIPE) == set()
    assert {model.group_of(name) for name, _ in model.named_parameters() if ":ecg" in name} == {
        "modality:ecg"
    }

    def losses(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        return case_losses(outputs, batch, RECIPE.heads, objectives)

    assert 0.99 < sensitivity(model.train(), HAVING, losses) <= SLACK


@pytest.mark.parametrize("signals", [{"ecg": 3}, {"flair": 1}, {"ecg": 0}, {"ekg": 2}])
def test_leads_that_do_not_fit_are_refused(signals: dict[str, int]) -> None:
    model = Part("volume_classifier", {**OPTIONS, "signals": signals})
    with pytest.raises(
        RecipeError, match=rf"model\.signals\.{next(iter(signals))}: .* which must be a multiple"
    ):
        build_model(replace(RECIPE, model=model))

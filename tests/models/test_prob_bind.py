"""ProbMED: what is fused, what is bound, and what a case costs by itself."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.catalogue import build_model, build_objectives
from models.gaussians import Gaussian, similarity, surprise
from models.masking import visible
from models.objectives import total_loss
from models.zoo.prob_bind import ProbBind, gaussians
from protocol.batch import Batch
from protocol.errors import PrivacyError, RecipeError
from protocol.recipe import Head, Part, Privacy
from tests.models.cases import batch_for, presence, recipe_for
from tests.models.invariance import leaks

RECIPE = recipe_for("prob_bind")
NAMES = tuple(RECIPE.modalities)
PAIR = {"pair": Head("pretext", 1, Part("contrast"))}
BINDING = replace(RECIPE, heads=RECIPE.heads | PAIR)


def built(seed: int = 1) -> ProbBind:
    model = build_model(replace(BINDING, seed=seed))
    assert isinstance(model, ProbBind)
    return model


def check_fused_by_precision() -> None:
    model, batch = built(), batch_for(RECIPE, presence(RECIPE, [NAMES, NAMES[:2], NAMES[1:]]))
    said = model.said(visible(batch, NAMES))
    for row, held in enumerate((NAMES, NAMES[:2], NAMES[1:])):
        sure = [(-said[name].log_variance[row]).exp() for name in held]
        pulled = [s * said[name].mean[row] for s, name in zip(sure, held, strict=True)]
        mean = torch.stack(pulled).sum(0) / torch.stack(sure).sum(0)
        torch.testing.assert_close(model(batch)["grade"][row], model.heads["head:grade"](mean))


def test_a_case_is_what_its_modalities_say_each_as_sure_as_it_is() -> None:
    check_fused_by_precision()


def test_a_plain_mean_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean(parts: dict[str, Gaussian], seen: object, size: int) -> Gaussian:
        return Gaussian(*(torch.stack(each).mean(0) for each in zip(*parts.values(), strict=True)))

    monkeypatch.setattr(gaussians, "product", mean)
    with pytest.raises(AssertionError):
        check_fused_by_precision()


def test_who_has_nothing_to_pair_pays_for_surprise_alone() -> None:
    model, batch = built(), batch_for(RECIPE, presence(RECIPE, [NAMES[:1], NAMES]))
    outputs, said = model(batch), model.said(visible(batch, NAMES))
    torch.testing.assert_close(outputs["scan"][0, 0], surprise(said["flair"])[0])
    every = torch.stack([surprise(each)[1] for each in said.values()]).mean()
    torch.testing.assert_close(outputs["scan"][1, 0], every)
    losses = gaussians.contrast(outputs["pair"], 0.1)
    assert float(losses[0].detach()) == 0 < float(losses[1].detach())


def test_a_case_is_encoded_once() -> None:
    """Whatever is read from it: labels, binding, surprise."""
    model, passes = built().train(), list[str]()
    for group, encoder in model.encoders.items():
        encoder.register_forward_hook(lambda *_, group=group: passes.append(group))
    assert model(batch_for(RECIPE, presence(RECIPE, [NAMES] * 2))).keys() == BINDING.heads.keys()
    assert passes == [f"modality:{name}" for name in NAMES]


def test_absent_content_is_not_compared() -> None:
    patterns = [NAMES, NAMES[:2], NAMES[1:], NAMES[:1], ()]
    recipe = replace(BINDING, heads={"grade": RECIPE.heads["grade"]} | PAIR)
    model, batch = build_model(recipe), batch_for(recipe, presence(recipe, patterns))

    class Compared(torch.nn.Module):
        """The model, with what each case pays among the others as an output."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            return self.model(batch) | {"pair": gaussians.contrast(self.model(batch)["pair"], 0.1)[:, None]}

    alone = replace(recipe, heads={"grade": RECIPE.heads["grade"], "pair": Head("pretext", 1, Part("own"))})
    assert leaks(Compared(), batch, alone) == set()


def test_what_is_compared_is_given_in_training_alone() -> None:
    batch = batch_for(RECIPE, presence(RECIPE, [NAMES] * 2))
    assert built().train()(batch)["pair"].shape == (2, len(NAMES), 1 + 2 * 32)
    assert set(built().eval()(batch)) == set(RECIPE.heads)


def test_binding_couples_patients_and_never_trains_privately() -> None:
    private = replace(BINDING, privacy=Privacy(epsilon=8.0))
    with pytest.raises(
        PrivacyError, match=r"heads\.pair\.objective: 'contrast' couples .* leave this pretext"
    ):
        build_objectives(private)
    assert build_objectives(replace(private, heads=RECIPE.heads))


def test_a_model_without_gaussians_does_not_contrast() -> None:
    other = recipe_for("bm_mae")
    with pytest.raises(RecipeError, match=r"heads\.pair\.objective: the pretexts of 'bm_mae' learn by own"):
        build_model(replace(other, heads=other.heads | PAIR))


def test_binding_brings_a_patient_s_modalities_together_and_patients_not() -> None:
    recipe = replace(recipe_for("prob_bind", channels=(8, 16, 32)), heads=PAIR)
    batch = batch_for(recipe, presence(recipe, [NAMES[:2]] * 8), (8, 8))
    batch.labelled["pair"][:] = True
    # Both images show the same, and noise.
    shown = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    images = {name: shown + 0.1 * batch.inputs[name] for name in NAMES[:2]}
    batch = replace(batch, inputs=batch.inputs | images)
    model, objectives = build_model(recipe), build_objectives(recipe)
    assert isinstance(model, ProbBind)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        optimiser.zero_grad()
        total_loss(model(batch), batch, recipe.heads, objectives).backward()
        optimiser.step()
    said = model.said(visible(batch, NAMES))
    first, second = said["flair"], said["t1"]
    alike = similarity(Gaussian(*(x[:, None] for x in first)), Gaussian(*(x[None] for x in second)))
    assert alike.argmax(1).tolist() == list(range(8))

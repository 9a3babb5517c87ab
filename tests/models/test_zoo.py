"""What holds for every model of the catalogue, on every subset of modalities."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.base import MultiModal
from models.catalogue import MODELS, build_model
from models.masking import rows
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.groups import modality_group
from protocol.recipe import Modality, Part, Recipe
from tests.models.cases import (
    ALL,
    FUSING,
    MAPPING,
    MEASURING,
    OWNED,
    POOLING,
    TUMOUR,
    VECTORIAL,
    batch_for,
    presence,
    recipe_for,
    subsets,
)
from tests.models.invariance import leaks, results


def every_pattern(recipe: Recipe) -> list[Tensor]:
    """Batches whose cases all have one subset, and one batch in which every subset meets."""
    patterns = subsets(tuple(recipe.modalities))
    return [presence(recipe, [s] * 2) for s in patterns] + [presence(recipe, patterns)]


def alone(batch: Batch, row: int) -> Batch:
    return batch.map(lambda x: x[row : row + 1])


def test_all_models_are_tried() -> None:
    assert sorted(ALL) == sorted(MODELS)


@pytest.mark.parametrize("name", ALL)
def test_absent_content_changes_no_output_no_loss_and_no_gradient(name: str) -> None:
    recipe = recipe_for(name)
    model = build_model(recipe)
    assert not set().union(*(leaks(model, batch_for(recipe, p), recipe) for p in every_pattern(recipe)))


def test_absent_content_changes_nothing_in_volumes() -> None:
    for name in ("parallel_unet", "volume_classifier"):
        recipe = recipe_for(name, dims=3)
        batch = batch_for(recipe, presence(recipe, subsets(tuple(recipe.modalities))), (5, 4, 3))
        assert leaks(build_model(recipe), batch, recipe) == set()


class Leaky(MultiModal):
    """A mutant of the door: absence by multiplication, or by nothing at all."""

    def __init__(self, sound: MultiModal, *, multiply: bool) -> None:
        super().__init__(sound.modalities)
        self.sound, self.multiply = sound, multiply

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        columns = dict(zip(self.modalities, batch.present.unbind(1), strict=True))
        inputs = {n: x * rows(columns[n], x) if self.multiply else x for n, x in batch.inputs.items()}
        return self.sound(Batch(inputs, torch.ones_like(batch.present), batch.targets, batch.labelled))

    def predict(self, seen: object) -> dict[str, Tensor]:
        raise NotImplementedError


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_a_model_that_reads_absent_content_is_caught(name: str, *, multiply: bool) -> None:
    recipe = recipe_for(name)
    batch = batch_for(recipe, presence(recipe, subsets(tuple(recipe.modalities))))
    assert leaks(Leaky(build_model(recipe), multiply=multiply), batch, recipe)


@pytest.mark.parametrize("name", ALL)
def test_a_case_is_predicted_whatever_its_companions(name: str) -> None:
    recipe = recipe_for(name)
    model, patterns = build_model(recipe), subsets(tuple(recipe.modalities))
    for pattern in patterns:
        one = batch_for(recipe, presence(recipe, [pattern, patterns[0]]))
        other = batch_for(recipe, presence(recipe, [pattern, patterns[-1]]), seed=9)
        other = other.map(lambda x: x.clone())
        for mine, theirs in zip(one.inputs.values(), other.inputs.values(), strict=True):
            theirs[0] = mine[0]
        for head, logits in model(one).items():
            assert torch.equal(logits[0], model(other)[head][0])


@pytest.mark.parametrize("name", ALL)
def test_one_case_alone_is_predicted_as_in_a_batch(name: str) -> None:
    recipe = recipe_for(name)
    model = build_model(recipe)
    batch = batch_for(recipe, presence(recipe, subsets(tuple(recipe.modalities))))
    together = model(batch)
    for row in range(len(batch)):
        for head, logits in model(alone(batch, row)).items():
            torch.testing.assert_close(logits[0], together[head][row])


@pytest.mark.parametrize("name", ALL)
def test_what_is_present_is_used(name: str) -> None:
    recipe = recipe_for(name)
    model = build_model(recipe).eval()
    for modality in recipe.modalities:
        batch = batch_for(recipe, presence(recipe, [tuple(recipe.modalities)]))
        changed = replace(batch, inputs=batch.inputs | {modality: batch.inputs[modality].flip(-1)})
        read = [
            head for head, logits in model(batch).items() if not torch.equal(logits, model(changed)[head])
        ]
        reads_no_table = {"tumour"} if modality == "ehr" else set()
        reads_no_table |= {"scan"} if modality == "ehr" and name not in MEASURING else set()
        by_chance = {"scan"} if name in {"brainmvp", "embed_fusion", "mm_dino"} else set()  # see below
        # two of a case's images in a step; unit vectors, all equally far from means that are still zero;
        # said in training alone
        assert set(read) - by_chance == set(recipe.heads) - reads_no_table - by_chance


@pytest.mark.parametrize(
    "name",
    [*FUSING, "ivdnet", "m2snet", "mmsformer", "mulmodseg", "stunet", "table_mlp", "volume_classifier"],
)
def test_the_order_of_modalities_does_not_matter(name: str) -> None:
    recipe = recipe_for(name)
    turned = replace(recipe, modalities=dict(reversed(recipe.modalities.items())))
    model, other = build_model(recipe), build_model(turned)
    other.load_state_dict(model.state_dict())
    batch = batch_for(recipe, presence(recipe, subsets(tuple(recipe.modalities))))
    for head, logits in other(batch.seeing(batch.present.flip(1))).items():
        torch.testing.assert_close(logits, model(batch)[head])


@pytest.mark.parametrize("dims", [2, 3])
def test_parallel_unet_is_the_mean_of_its_single_modality_logits(dims: int) -> None:
    recipe = recipe_for("parallel_unet", dims)
    model, names = build_model(recipe), tuple(recipe.modalities)
    for subset in subsets(names):
        batch = batch_for(recipe, presence(recipe, [subset] * 2), (6, 5, 4)[:dims])
        single = {m: model(batch.seeing(presence(recipe, [(m,)] * 2))) for m in subset}
        for head, logits in model(batch).items():
            voices = [single[m][head] for m in subset if not (head == "tumour" and m == "ehr")]
            if voices:
                torch.testing.assert_close(logits, torch.stack(voices).mean(0))


@pytest.mark.parametrize("name", FUSING)
def test_a_segmentation_without_any_image_is_constant(name: str) -> None:
    recipe = recipe_for(name, groups=1)
    model = build_model(recipe)
    logits = model(batch_for(recipe, presence(recipe, [("ehr",)] * 2)))["tumour"]
    assert logits.shape == (2, 2, 6, 5)
    assert torch.equal(logits[0], logits[1])


def test_parallel_unet_without_any_image_says_its_bias() -> None:
    recipe = recipe_for("parallel_unet")
    model = build_model(recipe)
    logits = model(batch_for(recipe, presence(recipe, [("ehr",)])))["tumour"]
    bias = dict(model.named_parameters())["maps.head:tumour.bias"]
    assert torch.equal(logits, bias.view(1, 2, 1, 1).expand_as(logits))


@pytest.mark.parametrize("name", ALL)
def test_a_case_without_anything_is_finite(name: str) -> None:
    recipe = recipe_for(name)
    batch = batch_for(recipe, presence(recipe, [()] * 2))
    assert leaks(build_model(recipe), batch, recipe) == set()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (9, 13), (1, 1, 1), (2, 5, 3), (7, 1, 9)])
@pytest.mark.parametrize("name", [*MAPPING, *POOLING])
def test_every_size_of_image_works_even_for_one_case(name: str, shape: tuple[int, ...]) -> None:
    recipe = recipe_for(name, len(shape), groups=32)
    batch = batch_for(recipe, presence(recipe, [tuple(recipe.modalities)]), shape)
    model = build_model(recipe).train()
    assert all(value.isfinite().all() for value in results(model, batch, recipe).values())
    outputs = model(batch)
    for head, each in recipe.heads.items():
        classes, logits = each.classes, outputs[head]
        assert logits.shape == ((1, classes, *shape) if head == "tumour" else (1, classes))


@pytest.mark.parametrize("name", [*MAPPING, *POOLING])
def test_images_of_other_dimensions_are_refused(name: str) -> None:
    recipe = recipe_for(name, dims=2)
    batch = batch_for(recipe, presence(recipe, [("flair",)]), (4, 4, 4))
    with pytest.raises(RecipeError, match=r"model\.dims: 2, but the images have 3"):
        build_model(recipe)(batch)


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_has_an_owner_that_the_recipe_knows(name: str) -> None:
    recipe = recipe_for(name)
    model = build_model(recipe)
    known = {"shared"} | {f"modality:{m}" for m in recipe.modalities} | {f"head:{h}" for h in recipe.heads}
    names = [name for name, _ in model.named_parameters()]
    assert {model.group_of(each) for each in names} <= known
    own_none = {"scan"} if name in MEASURING else set()  # what Gaussians or means cost
    own_none |= set(recipe.heads) if name == "mm_dino" else set()  # all share its prototypes
    assert {model.group_of(each) for each in names if model.kind_of(each) == "head"} == {
        f"head:{head}" for head in recipe.heads if head not in own_none
    }


def test_parallel_unet_shares_convolutions_and_keeps_norms_apart() -> None:
    model = build_model(recipe_for("parallel_unet"))
    for name, parameter in model.named_parameters():
        expected = {"shared": "other", "modality": "norm", "head": "head"}[
            model.group_of(name).partition(":")[0]
        ]
        assert model.kind_of(name) == ("other" if name.startswith("tables.") else expected)
        assert (parameter.ndim == 4) == (
            model.group_of(name) == "shared" or name == "maps.head:tumour.weight"
        )


@pytest.mark.parametrize("name", [*FUSING, *OWNED, "bm_mae", "mm_dino", "table_mlp", *VECTORIAL])
def test_a_modality_that_no_case_has_gets_no_gradient(name: str) -> None:
    recipe = recipe_for(name)
    model = build_model(recipe)
    for absent in recipe.modalities:
        held = tuple(modality for modality in recipe.modalities if modality != absent)
        results(model, batch_for(recipe, presence(recipe, [held] * 2)), recipe)
        theirs = [p.grad for n, p in model.named_parameters() if model.group_of(n) == modality_group(absent)]
        assert theirs
        assert all(grad is None for grad in theirs)


@pytest.mark.parametrize("name", ["keys", "type", "items", "training", "forward"])
def test_a_name_that_pytorch_uses_itself_is_only_a_name(name: str) -> None:
    recipe = recipe_for("parallel_unet")
    recipe = replace(recipe, modalities={name: Modality()}, heads={name: TUMOUR["tumour"]})
    model = build_model(recipe)
    assert model(batch_for(recipe, presence(recipe, [(name,)])))[name].shape == (1, 2, 6, 5)
    assert {model.group_of(n) for n, _ in model.named_parameters()} == {
        "shared", f"modality:{name}", f"head:{name}",
    }  # fmt: skip


def test_only_what_a_head_reads_is_built() -> None:
    """A table says nothing about where a tumour is, and a grade needs no decoder."""
    recipe = recipe_for("parallel_unet")
    tumour = build_model(replace(recipe, heads=TUMOUR))
    assert not [name for name, _ in tumour.named_parameters() if "ehr" in name]
    grade = build_model(replace(recipe, heads={"grade": recipe.heads["grade"]}))
    assert not [name for name, _ in grade.named_parameters() if name.startswith("decoder")]


def test_the_benchmark_network_has_two_million_parameters() -> None:
    images = {name: Modality() for name in ("flair", "t1", "t1c", "t2")}
    model = Part("parallel_unet", {"channels": (32, 64, 128, 256)})
    recipe = Recipe("r", images, {"tumour": replace(TUMOUR["tumour"], classes=1)}, Part("d"), model)
    assert sum(p.numel() for p in build_model(recipe).parameters()) == 1_956_161

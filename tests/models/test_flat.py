"""Parameters as views into one vector a group."""

import pytest
import torch

from models.base import MultiModal
from models.catalogue import build_model
from models.flat import Flat, carry
from protocol.groups import PRIVATE
from tests.models.cases import ALL, batch_for, presence, recipe_for
from tests.models.invariance import results

PARALLEL = recipe_for("parallel_unet")


def flat(private: str = "") -> Flat:
    return Flat(build_model(PARALLEL), private)


@pytest.mark.parametrize("name", ALL)
def test_flattening_changes_no_parameter_and_forgets_none(name: str) -> None:
    recipe = recipe_for(name)
    plain, model = build_model(recipe), build_model(recipe)
    held = Flat(model)
    assert all(torch.equal(p, dict(plain.named_parameters())[n]) for n, p in model.named_parameters())
    slots = [slot.name for group in held.layout.groups.values() for slot in group]
    assert sorted(slots) == sorted(name for name, _ in model.named_parameters())
    assert sum(vector.numel() for vector in held.vectors.values()) == sum(
        p.numel() for p in plain.parameters()
    )


def test_the_vectors_are_the_parameters() -> None:
    held = flat()
    held.load({group: torch.arange(len(v)).float() for group, v in held.vectors.items()})
    named = dict(held.model.named_parameters())
    for slots in held.layout.groups.values():
        for slot in slots:
            expected = torch.arange(slot.offset, slot.offset + slot.size).float()
            assert torch.equal(named[slot.name].flatten(), expected)


def test_loading_changes_what_the_model_says() -> None:
    held, batch = flat(), batch_for(PARALLEL, presence(PARALLEL, [("flair", "t1")]))
    before = held.model(batch)["tumour"]
    saved = {group: vector.clone() for group, vector in held.vectors.items()}
    held.load({group: vector * 1.5 for group, vector in saved.items()})
    assert not torch.equal(held.model(batch)["tumour"], before)
    held.load(saved)
    assert torch.equal(held.model(batch)["tumour"], before)


def test_what_is_not_given_becomes_zero() -> None:
    held = flat()
    held.load({"shared": held.vectors["shared"].clone()})
    assert held.vectors["shared"].any()
    assert not any(vector.any() for group, vector in held.vectors.items() if group != "shared")


def backward(model: MultiModal) -> None:
    """Leave a gradient of cases that lack T1."""
    outputs = model(batch_for(PARALLEL, presence(PARALLEL, [("flair", "ehr")] * 2)))
    sum(logits.square().sum() for logits in outputs.values()).backward()


def test_an_update_is_one_subtraction_a_group() -> None:
    held, untouched = flat(), dict(build_model(PARALLEL).named_parameters())
    start = {group: vector.clone() for group, vector in held.vectors.items()}
    held.train_only(held.vectors)
    backward(held.model)
    for group, vector in held.vectors.items():
        vector.sub_(held.grads[group], alpha=0.1)
    for group, slots in held.layout.groups.items():
        delta = held.vectors[group] - start[group]
        for slot in slots:
            moved = dict(held.model.named_parameters())[slot.name] - untouched[slot.name]
            assert torch.equal(delta[slot.offset : slot.offset + slot.size], moved.flatten())
    assert (held.vectors["shared"] != start["shared"]).any()


def test_gradients_arrive_in_the_vectors() -> None:
    held, plain = flat(), build_model(PARALLEL)
    held.train_only(held.vectors)
    backward(held.model)
    backward(plain)
    own = dict(plain.named_parameters())
    for group, slots in held.layout.groups.items():
        for slot in slots:
            grad = own[slot.name].grad
            expected = torch.zeros(slot.size) if grad is None else grad.flatten()
            assert torch.equal(held.grads[group][slot.offset : slot.offset + slot.size], expected)


def test_a_modality_that_no_case_has_keeps_a_zero_gradient() -> None:
    held = flat()
    held.train_only(held.vectors)
    backward(held.model)
    assert not held.grads["modality:t1"].any()
    assert held.grads["modality:flair"].any()


def test_only_the_chosen_groups_have_gradients() -> None:
    held = flat()
    held.train_only(["shared", "head:tumour"])
    for name, parameter in held.model.named_parameters():
        chosen = held.model.group_of(name) in ("shared", "head:tumour")
        assert parameter.requires_grad == chosen
        assert (parameter.grad is not None) == chosen


def test_private_parameters_leave_their_groups() -> None:
    everything = {name for name, _ in flat().model.named_parameters()}
    for private, stays in [
        ("", set()),
        ("norm", {name for name in everything if ".norms." in name}),
        ("head", {name for name in everything if "head:" in name}),
        ("all", everything),
    ]:
        held = flat(private)
        slots = held.layout.groups.get(PRIVATE, ())
        assert {slot.name for slot in slots} == stays
        assert set(held.initial) == ({PRIVATE} if stays else set())


def test_the_private_group_is_remembered_as_the_seed_built_it() -> None:
    held = flat("head")
    first = held.vectors[PRIVATE].clone()
    held.vectors[PRIVATE].zero_()
    assert torch.equal(held.initial[PRIVATE], first)


def test_gradients_by_name_match_a_model_without_views() -> None:
    """The whole training signal, losses and all, is untouched by flattening."""
    batch = batch_for(PARALLEL, presence(PARALLEL, [("flair", "t1", "ehr"), ("t1",)]))
    expected, held = results(build_model(PARALLEL), batch, PARALLEL), flat()
    given = results(held.model, batch, PARALLEL)
    assert all(torch.equal(value, given[name]) for name, value in expected.items())


def test_what_two_models_have_in_common_is_carried_over() -> None:
    """By group, name and shape; the rest keeps its values, and the source is only read."""
    source, onto = flat(), Flat(build_model(recipe_for("parallel_unet", seed=2, channels=(4, 8, 16))))
    before = {group: vector.clone() for group, vector in source.vectors.items()}
    untouched = {name: p.clone() for name, p in onto.model.named_parameters()}
    carry(source.vectors, source.layout, onto)
    theirs = dict(source.model.named_parameters())
    carried = 0
    for name, parameter in onto.model.named_parameters():
        same = name in theirs and theirs[name].shape == parameter.shape
        carried += same
        assert torch.equal(parameter, theirs[name] if same else untouched[name])
    assert 0 < carried < len(untouched)
    assert all(torch.equal(source.vectors[group], vector) for group, vector in before.items())


def test_a_parameter_that_changed_hands_is_not_carried_over() -> None:
    """A private norm has another owner than a modality's, though it has the same name."""
    source, onto = flat(), flat("norm")
    onto.vectors[PRIVATE].fill_(7.0)
    carry(source.vectors, source.layout, onto)
    assert bool((onto.vectors[PRIVATE] == 7.0).all())
    assert torch.equal(onto.vectors["shared"], source.vectors["shared"])

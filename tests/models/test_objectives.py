"""Losses against independent oracles, and what they couple."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.losses.dice import DiceLoss
from sklearn.metrics import log_loss
from torch import Tensor

from models.objectives import OBJECTIVES, Objective, case_losses, total_loss
from protocol.batch import Batch
from protocol.errors import PrivacyError
from protocol.recipe import Head, Part

CASES = 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks(*shape: int, seed: int = 1) -> Tensor:
    return (normal(*shape, seed=seed) > 0.3).float()


def survival(cases: int = CASES, seed: int = 2) -> Tensor:
    return torch.stack([normal(cases, seed=seed).abs(), (normal(cases, seed=seed + 1) > 0).float()], 1)


def loss(name: str, logits: Tensor, target: Tensor, **options: float) -> Tensor:
    return OBJECTIVES[name](**options).function(logits, target)


EXAMPLES = {
    "bce": (normal(CASES, 1), torch.arange(CASES) % 2),
    "ce": (normal(CASES, 3), torch.arange(CASES) % 3),
    "contrast": (torch.cat([torch.ones(CASES, 3, 1), normal(CASES, 3, 6)], 2), torch.empty(CASES, 0)),
    "cox": (normal(CASES, 1), survival()),
    "dice": (normal(CASES, 2, 4, 3), masks(CASES, 2, 4, 3)),
    "dice_ce": (normal(CASES, 2, 4, 3), masks(CASES, 2, 4, 3)),
    "dice_holder": (normal(CASES, 2, 4, 3), masks(CASES, 2, 4, 3)),
    "dice_pseudo_holder": (normal(CASES, 2, 4, 3), masks(CASES, 2, 4, 3)),
    "dino": (normal(CASES, 4, 3), normal(CASES, 4, 2)),
    "exponential": (normal(CASES, 1), survival()),
    "focal": (normal(CASES, 2, 4, 3), masks(CASES, 2, 4, 3)),
    "koleo": (normal(CASES, 2, 6), torch.empty(CASES, 0)),
    "own": (normal(CASES, 1), torch.empty(CASES, 0)),
    "structure": (normal(CASES, 2, 4, 3), masks(CASES, 2, 4, 3)),
}


def test_bce_is_sklearns_log_loss_of_each_case() -> None:
    logits, target = EXAMPLES["bce"]
    for case, value in enumerate(loss("bce", logits, target).tolist()):
        chance = float(logits[case].sigmoid())
        assert value == pytest.approx(
            log_loss([int(target[case])], [[1 - chance, chance]], labels=[0, 1]), rel=1e-5
        )


def test_bce_is_flambys_loss_of_sigmoids() -> None:
    logits, target = EXAMPLES["bce"]
    flamby = torch.nn.BCELoss()(torch.sigmoid(logits), target.float()[:, None])
    torch.testing.assert_close(loss("bce", logits, target).mean(), flamby)


def test_bce_of_a_segmentation_is_the_mean_over_its_voxels() -> None:
    logits, target = EXAMPLES["dice"]
    for case, value in enumerate(loss("bce", logits, target).tolist()):
        chances = logits[case].sigmoid().flatten().tolist()
        truth = target[case].flatten().tolist()
        expected = -sum(math.log(p if y else 1 - p) for p, y in zip(chances, truth, strict=True)) / len(truth)
        assert value == pytest.approx(expected, rel=1e-5)


def test_bce_is_finite_where_a_sigmoid_saturates() -> None:
    values = loss("bce", torch.tensor([[-200.0], [200.0]]), torch.tensor([1, 0]))
    assert values.tolist() == [200.0, 200.0]


def test_ce_is_sklearns_log_loss_of_each_case() -> None:
    logits, target = EXAMPLES["ce"]
    for case, value in enumerate(loss("ce", logits, target).tolist()):
        chances = logits[case].double().softmax(0).tolist()
        assert value == pytest.approx(log_loss([int(target[case])], [chances], labels=[0, 1, 2]), rel=1e-5)


@pytest.mark.parametrize("smooth", [1.0, 1e-5])
def test_dice_by_hand(smooth: float) -> None:
    logits, target = EXAMPLES["dice"]
    for case, value in enumerate(loss("dice", logits, target, smooth=smooth).tolist()):
        channels = []
        for p, y in zip(logits[case].sigmoid(), target[case], strict=True):
            channels.append(
                1 - (2 * float((p * y).sum()) + smooth) / (float(p.sum()) + float(y.sum()) + smooth)
            )
        assert value == pytest.approx(sum(channels) / len(channels), rel=1e-5)


def test_dice_ce_is_their_sum() -> None:
    logits, target = EXAMPLES["dice"]
    both = loss("dice", logits, target) + loss("bce", logits, target)
    torch.testing.assert_close(loss("dice_ce", logits, target), both)


def test_focal_without_focus_is_cross_entropy() -> None:
    for other, (logits, target) in [
        ("bce", EXAMPLES["bce"]),
        ("ce", EXAMPLES["ce"]),
        ("bce", EXAMPLES["dice"]),
    ]:
        torch.testing.assert_close(loss("focal", logits, target, gamma=0.0), loss(other, logits, target))


def test_focal_by_hand() -> None:
    logits, target = EXAMPLES["ce"]
    chance = logits.softmax(1)[torch.arange(CASES), target]
    torch.testing.assert_close(loss("focal", logits, target, gamma=3.0), -((1 - chance) ** 3) * chance.log())
    logits, target = EXAMPLES["bce"]
    chance = torch.where(target == 1, logits[:, 0].sigmoid(), 1 - logits[:, 0].sigmoid())
    torch.testing.assert_close(loss("focal", logits, target, gamma=2.0), -((1 - chance) ** 2) * chance.log())


def cox_by_hand(scores: list[float], times: list[float], events: list[float]) -> float:
    """Breslow's negative log partial likelihood over all cases, as a plain loop."""
    total = 0.0
    for score, time, event in zip(scores, times, events, strict=True):
        at_risk = [math.exp(s) for s, t in zip(scores, times, strict=True) if t >= time]
        total += event * (math.log(sum(at_risk)) - score)
    return total / len(scores)


def flambys_cox(scores: list[float], times: list[float], events: list[float]) -> float:
    """Fed-TCGA-BRCA's: longest time first, each case against those before it in the order."""
    order = sorted(range(len(scores)), key=lambda i: -times[i])
    losses = [
        events[i] * math.log(sum(math.exp(scores[j] - scores[i]) for j in order[: place + 1]))
        for place, i in enumerate(order)
    ]
    return sum(losses) / len(losses)


numbers = st.floats(-5, 5)
patients = st.lists(st.tuples(numbers, st.integers(1, 4), st.booleans()), min_size=1, max_size=9)


@given(patients)
def test_cox_is_breslows_sum_over_risk_sets(cases: list[tuple[float, int, bool]]) -> None:
    scores, times, events = (list(map(float, column)) for column in zip(*cases, strict=True))
    values = loss("cox", torch.tensor(scores)[:, None], torch.tensor([times, events]).T)
    assert float(values.mean()) == pytest.approx(cox_by_hand(scores, times, events), rel=1e-4, abs=1e-5)


@given(patients)
def test_cox_is_flambys_where_no_times_are_equal(cases: list[tuple[float, int, bool]]) -> None:
    scores, _, events = (list(map(float, column)) for column in zip(*cases, strict=True))
    times = [float(7 * place % 11) for place in range(len(cases))]
    values = loss("cox", torch.tensor(scores)[:, None], torch.tensor([times, events]).T)
    assert float(values.mean()) == pytest.approx(flambys_cox(scores, times, events), rel=1e-4, abs=1e-5)


def test_cox_neither_overflows_nor_cares_about_a_constant() -> None:
    logits, target = EXAMPLES["cox"]
    shifted = loss("cox", logits + 1000, target)
    torch.testing.assert_close(shifted, loss("cox", logits, target), atol=1e-3, rtol=1e-3)


def test_exponential_is_minimal_at_events_per_time() -> None:
    """The maximum-likelihood hazard of a constant hazard is events / time at risk."""
    target = survival(40)
    hazard = target[:, 1].sum() / target[:, 0].sum()
    logit = hazard.log().expand(40, 1).clone().requires_grad_()
    loss("exponential", logit, target).sum().backward()
    assert float(logit.grad.sum()) == pytest.approx(0, abs=1e-4)


def test_exponential_counts_time_in_its_unit() -> None:
    logits, target = EXAMPLES["exponential"]
    years = target / torch.tensor([365.25, 1.0])
    torch.testing.assert_close(
        loss("exponential", logits, target, time_unit=365.25), loss("exponential", logits, years)
    )


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"focal"}))  # MONAI's focal loss is float32 inside
def test_gradients_are_the_derivatives(name: str) -> None:
    logits, target = EXAMPLES[name]
    target = target.double() if target.is_floating_point() else target
    function = OBJECTIVES[name]().function
    assert torch.autograd.gradcheck(lambda x: function(x, target), logits.double().requires_grad_())


def coupled(objective: Objective, logits: Tensor, target: Tensor) -> bool:
    """Whether a case's loss changes, in any bit, when all others do."""
    before = objective.function(logits, target)[0]
    other_logits, other_target = logits.flip(0).clone(), target.flip(0).clone()
    other_logits[0], other_target[0] = logits[0], target[0]
    return not torch.equal(objective.function(other_logits, other_target)[0], before)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_an_objective_couples_what_it_says(name: str) -> None:
    objective = OBJECTIVES[name]()
    assert coupled(objective, *EXAMPLES[name]) == (objective.coupling != "case")


def test_a_dice_pooled_over_the_batch_is_caught() -> None:
    pooled = DiceLoss(sigmoid=True, batch=True, reduction="none")
    mutant = Objective(lambda x, y: pooled(x, y).mean().expand(len(x)), "case")
    assert coupled(mutant, *EXAMPLES["dice"])


HEADS = {
    "tumour": Head("segmentation", 2, Part("dice"), weight=2.0),
    "idh": Head("classification", 1, Part("bce"), weight=0.5),
}
BOTH = {name: OBJECTIVES[head.objective.name]() for name, head in HEADS.items()}


def labelled_batch(tumour: list[bool], idh: list[bool]) -> tuple[dict[str, Tensor], Batch]:
    outputs = {"tumour": EXAMPLES["dice"][0][:4], "idh": EXAMPLES["bce"][0][:4]}
    targets = {"tumour": EXAMPLES["dice"][1][:4], "idh": EXAMPLES["bce"][1][:4]}
    labelled = {"tumour": torch.tensor(tumour), "idh": torch.tensor(idh)}
    return outputs, Batch({}, torch.ones(4, 1, dtype=torch.bool), targets, labelled)


def test_case_losses_weigh_heads_and_skip_missing_labels() -> None:
    outputs, batch = labelled_batch([True, False, True, False], [True, True, False, False])
    dice = loss("dice", outputs["tumour"], batch.targets["tumour"])
    bce = loss("bce", outputs["idh"], batch.targets["idh"])
    expected = torch.stack([2 * dice[0] + 0.5 * bce[0], 0.5 * bce[1], 2 * dice[2], torch.zeros(())])
    torch.testing.assert_close(case_losses(outputs, batch, HEADS, BOTH), expected)


def test_the_total_is_a_mean_over_the_labelled_cases_of_each_head() -> None:
    outputs, batch = labelled_batch([True, False, True, False], [True, True, True, True])
    dice = loss("dice", outputs["tumour"], batch.targets["tumour"])
    bce = loss("bce", outputs["idh"], batch.targets["idh"])
    expected = 2 * (dice[0] + dice[2]) / 2 + 0.5 * bce.mean()
    torch.testing.assert_close(total_loss(outputs, batch, HEADS, BOTH), expected)


def test_without_labels_the_loss_is_zero_and_has_a_gradient() -> None:
    outputs, batch = labelled_batch([False] * 4, [False] * 4)
    outputs = {name: logits.clone().requires_grad_() for name, logits in outputs.items()}
    for value in (total_loss(outputs, batch, HEADS, BOTH), case_losses(outputs, batch, HEADS, BOTH).sum()):
        assert value.detach() == 0
        value.backward()
    assert not any(logits.grad.any() for logits in outputs.values())


@pytest.mark.parametrize("loss_of", [case_losses, total_loss])
def test_a_missing_label_may_be_anything(loss_of: object) -> None:
    outputs, batch = labelled_batch([True, False, True, False], [True, True, False, False])
    expected = loss_of(outputs, batch, HEADS, BOTH)
    targets = {name: target.clone() for name, target in batch.targets.items()}
    targets["tumour"][1], targets["idh"][2] = math.nan, 999
    assert torch.equal(loss_of(outputs, replace(batch, targets=targets), HEADS, BOTH), expected)


def test_cox_sees_the_labelled_cases_together() -> None:
    logits, target = EXAMPLES["cox"]
    heads = {"risk": Head("survival", 1, Part("cox"))}
    has = torch.tensor([True, True, False, True, True, False])
    batch = Batch({}, torch.ones(CASES, 1, dtype=torch.bool), {"risk": target}, {"risk": has})
    expected = cox_by_hand(logits[has, 0].tolist(), target[has, 0].tolist(), target[has, 1].tolist())
    value = total_loss({"risk": logits}, batch, heads, {"risk": OBJECTIVES["cox"]()})
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_coupled_objective_is_refused_where_cases_must_be_apart() -> None:
    logits, target = EXAMPLES["cox"]
    heads = {"risk": Head("survival", 1, Part("cox"))}
    batch = Batch(
        {}, torch.ones(CASES, 1, dtype=torch.bool), {"risk": target}, {"risk": torch.ones(CASES).bool()}
    )
    with pytest.raises(PrivacyError, match=r"heads\.risk\.objective: 'cox' couples .* use 'exponential'"):
        case_losses({"risk": logits}, batch, heads, {"risk": OBJECTIVES["cox"]()})

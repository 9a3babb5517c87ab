"""What is measured equals independent oracles, and the tallies of parts merge to that of the whole."""

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_hausdorff_distance
from scipy.ndimage import binary_erosion
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_auroc,
    multiclass_calibration_error,
)

from models.metrics import (
    PAIRS_AT_ONCE,
    calibration,
    concordance,
    hausdorff95,
    measure,
    overlap,
    surface_distance,
)
from protocol.metrics import Tally
from protocol.recipe import Head

SEEDS = st.integers(0, 10_000)
SEGMENTATION, SURVIVAL = Head("segmentation", 2), Head("survival")


def cases(kind: str, classes: int, seed: int, count: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, targets and the patient of each case; two or three cases a patient."""
    generator = torch.Generator().manual_seed(seed)
    patient = torch.arange(count) * 2 // 5
    if kind == "segmentation":
        logits = torch.randn(count, classes, 6, 5, generator=generator)
        return logits, (torch.rand(logits.shape, generator=generator) < 0.3).float(), patient
    logits = 2 * torch.randn(count, classes, generator=generator)
    if kind == "survival":
        time = torch.randint(1, 6, (count, 1), generator=generator)
        return (
            logits.round(),
            torch.cat([time, torch.rand(count, 1, generator=generator) < 0.6], 1).float(),
            patient,
        )
    return logits, torch.randint(0, max(2, classes), (count,), generator=generator), patient


def ball(centre: tuple[float, ...], radius: float, shape: tuple[int, ...]) -> Tensor:
    grid = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), -1)
    return (grid - torch.tensor(centre, dtype=torch.float)).norm(dim=-1) <= radius


# -- Merging -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "classes"), [("segmentation", 2), ("classification", 1), ("classification", 3), ("survival", 1)]
)
@settings(max_examples=20)
@given(seed=SEEDS, cut=st.integers(0, 5))
def test_parts_merge_to_the_whole(kind: str, classes: int, seed: int, cut: int) -> None:
    """Two sites' tallies add up to that of all patients; only survival pairs across sites are lost."""
    head, (logits, targets, patient) = Head(kind, classes), cases(kind, classes, seed)
    here = patient < cut

    def tallies(rows: Tensor) -> dict[str, Tally]:
        return measure(head, logits[rows], targets[rows], patient[rows], (1.0, 2.0), distances=True)

    north, south, whole = tallies(here), tallies(~here), tallies(here | ~here)
    for name, tally in whole.items():
        merged = north[name] + south[name]
        if name == "c_index":
            pairs = loop_concordance(
                logits[:, 0], targets[:, 0], targets[:, 1], (here[:, None] == here).tolist()
            )
            assert merged.sums == pairs
        else:
            assert merged.sums == pytest.approx(tally.sums)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_site_of_nobody_adds_nothing(classes: int) -> None:
    """Every head can be measured on zero cases."""
    for kind in ("segmentation", "classification", "survival"):
        logits, targets, patient = cases(kind, classes if kind != "survival" else 1, 0)
        found = measure(Head(kind, classes), logits[:0], targets[:0], patient[:0], (1.0, 1.0), distances=True)

        assert all(tally.count == 0 and math.isnan(tally.value) for tally in found.values())


# -- Dice ----------------------------------------------------------------------------------------


@given(seed=SEEDS)
def test_dice_is_of_a_patients_whole_volume(seed: int) -> None:
    """The plain loop: stack a patient's slices, then divide; channels and patients are averaged."""
    logits, masks, patient = cases("segmentation", 2, seed)
    masks[patient == 2] = 0
    logits[patient == 2, 0] = -1
    volumes = []
    for who in patient.unique():
        for channel in range(2):
            p, t = logits[patient == who, channel] > 0, masks[patient == who, channel] > 0
            size = p.sum() + t.sum()
            volumes.append(float(2 * (p & t).sum() / size) if size else 1.0)

    tally = measure(SEGMENTATION, logits, masks, patient, None)["dice"]

    assert tally.value == pytest.approx(np.mean(volumes))
    assert tally.count == len(patient.unique())


def test_dice_of_single_volumes_matches_monai() -> None:
    """One case a patient: MONAI's Dice."""
    logits, masks, _ = cases("segmentation", 3, 1)
    ours = measure(Head("segmentation", 3), logits, masks, torch.arange(12), None)["dice"]

    assert ours.value == pytest.approx(float(compute_dice((logits > 0).float(), masks).mean()), rel=1e-6)


def test_dice_is_not_a_mean_over_slices() -> None:
    """One slice missed wholly, one of ten voxels found: 20/22 by volume, one half by slice."""
    true = torch.zeros(2, 1, 10, 10, dtype=torch.bool)
    true[0, 0, 0], true[1, 0, 0, :2] = True, True
    predicted = true & (torch.arange(2) == 0).view(2, 1, 1, 1)

    assert overlap(predicted, true, torch.tensor([7, 7])).value == pytest.approx(20 / 22)
    assert overlap(predicted, true, torch.tensor([7, 8])).value == pytest.approx(0.5)


@pytest.mark.parametrize(("predicted", "true", "dice"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0), (1, 1, 1.0)])
def test_dice_of_nothing(predicted: int, true: int, dice: float) -> None:
    """Nothing predicted where nothing is counts as right, in 3D as in 2D."""
    masks = [torch.full((1, 1, 3, 3, 3), bool(on)) for on in (predicted, true)]

    assert overlap(*masks, torch.tensor([0])).sums == (dice, 1.0)


# -- Surface distance ----------------------------------------------------------------------------


def brute_hausdorff95(predicted: Tensor, true: Tensor, spacing: tuple[float, ...]) -> float:
    """Return it from the distances of all pairs of surface points."""
    edges = [
        np.argwhere(m & ~binary_erosion(m)) * np.array(spacing) for m in (predicted.numpy(), true.numpy())
    ]
    apart = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=-1)
    return max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95))


@pytest.mark.parametrize(
    ("shape", "spacing"), [((24, 20), (1.0, 1.0)), ((24, 20), (0.5, 3.0)), ((10, 12, 9), (1.0, 1.0, 5.0))]
)
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_surface_distance_matches_brute_force_and_monai(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    """In millimetres, also where a mask touches the border of the image."""
    for shift in range(4):
        one = ball((shift, *[6] * (len(shape) - 1)), 3.5, shape)
        two = ball((6, 4 + shift, 5)[: len(shape)], 2.5 + shift / 2, shape)
        masks = one[None, None].float(), two[None, None].float()
        theirs = compute_hausdorff_distance(
            *masks, include_background=True, percentile=95, spacing=list(spacing)
        )

        assert hausdorff95(one, two, spacing) == pytest.approx(brute_hausdorff95(one, two, spacing))
        assert hausdorff95(one, two, spacing) == pytest.approx(float(theirs), rel=1e-6)


def test_a_shift_is_measured_in_millimetres() -> None:
    """A line moved by three voxels along an axis of 2 mm is 6 mm away."""
    line, moved = torch.zeros(2, 1, 1, 24, 20, dtype=torch.bool)
    line[:, :, 8], moved[:, :, 11] = True, True

    assert surface_distance(line, moved, (2.0, 1.0)).sums == (6.0, 1.0, 0.0)
    assert surface_distance(line, line, (2.0, 1.0)).sums == (0.0, 1.0, 0.0)


def test_empty_masks_have_no_distance() -> None:
    """Neither zero nor infinite: one side empty is counted apart, both empty is no event at all."""
    disc, nothing = ball((5.0, 5.0), 3.0, (10, 10)), torch.zeros(10, 10, dtype=torch.bool)
    predicted, true = torch.stack([disc, nothing, disc, nothing]), torch.stack([nothing, disc, disc, nothing])

    assert surface_distance(predicted[:, None], true[:, None], (1.0, 1.0)).sums == (0.0, 1.0, 2.0)


def test_distances_are_measured_only_when_asked_and_known() -> None:
    """They are slow, and mean nothing in voxels."""
    logits, masks, patient = cases("segmentation", 2, 0)

    assert "hd95_mm" in measure(SEGMENTATION, logits, masks, patient, (1.0, 1.0), distances=True)
    assert measure(SEGMENTATION, logits, masks, patient, (1.0, 1.0)).keys() == {"dice"}
    assert measure(SEGMENTATION, logits, masks, patient, None, distances=True).keys() == {"dice"}


# -- Classification ------------------------------------------------------------------------------


@given(seed=SEEDS, scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_auroc_is_within_half_the_pairs_that_share_a_bin(seed: int, scale: float) -> None:
    """The promised bound, against scikit-learn on the unbinned scores, however over- or underconfident."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.tensor([0, 1]), torch.randint(0, 2, (200,), generator=generator)])
    logits = scale * (torch.randn(len(labels), 1, generator=generator) + labels[:, None])

    tally = measure(Head("classification"), logits, labels, labels, None)["auroc"]
    shared = sum(p * n for p, n in zip(tally.sums[1::3], tally.sums[2::3], strict=True))
    bound = shared / (2 * sum(tally.sums[1::3]) * sum(tally.sums[2::3]))

    assert tally.value == pytest.approx(roc_auc_score(labels, logits[:, 0]), abs=bound + 1e-12)
    assert bound < 0.05


def test_auroc_matches_torchmetrics() -> None:
    """Binary, and the mean of each class against the rest."""
    logits, labels, patient = cases("classification", 1, 3, 400)
    binary = measure(Head("classification"), logits, labels, patient, None)["auroc"].value
    assert binary == pytest.approx(float(binary_auroc(logits[:, 0], labels)), abs=1e-3)

    logits, labels, patient = cases("classification", 3, 3, 400)
    several = measure(Head("classification", 3), logits, labels, patient, None)["auroc"].value
    assert several == pytest.approx(float(multiclass_auroc(logits, labels, 3)), abs=1e-3)


def test_auroc_survives_overconfidence() -> None:
    """Logits of 30 and 60 are both probability 1 as float32, and are still told apart."""
    logits, labels = torch.tensor([[30.0], [60.0], [45.0], [90.0]]), torch.tensor([0, 1, 0, 1])

    assert measure(Head("classification"), logits, labels, labels, None)["auroc"].value == 1
    three = torch.nn.functional.pad(logits, (2, 0))  # class 2 against two zeros
    found = measure(Head("classification", 3), three, 2 * labels, labels, None)["auroc"]
    assert found.value == 1
    assert found.count == 4


@given(seed=SEEDS)
def test_accuracy_is_flambys(seed: int) -> None:
    """Fed-Heart-Disease: mean((sigmoid > 0.5) == label)."""
    logits, labels, patient = cases("classification", 1, seed)
    logits[0] = 0
    found = measure(Head("classification"), logits, labels, patient, None)

    assert found["accuracy"].value == pytest.approx(
        float(((logits[:, 0].sigmoid() > 0.5) == labels).float().mean())
    )
    assert found["accuracy"].count == found["mcc"].count == len(labels)


def test_confusion_rows_are_the_truth() -> None:
    """`[true, predicted]`: two sick, one of them missed; three healthy, none called sick."""
    logits, labels = torch.tensor([[2.0], [-2.0], [-2.0], [-2.0], [-2.0]]), torch.tensor([1, 1, 0, 0, 0])
    found = measure(Head("classification"), logits, labels, labels, None)

    assert found["mcc"].sums == (3.0, 0.0, 1.0, 1.0)
    assert found["balanced_accuracy"].value == pytest.approx((1 + 1 / 2) / 2)


@pytest.mark.parametrize("classes", [1, 4])
def test_ece_matches_torchmetrics(classes: int) -> None:
    """Confidence in the predicted class, 15 bins, L1."""
    logits, labels, patient = cases("classification", classes, 5, 500)
    p = logits.softmax(1) if classes > 1 else torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)
    theirs = multiclass_calibration_error(p, labels, num_classes=max(2, classes), n_bins=15)
    found = measure(Head("classification", classes), logits, labels, patient, None)["ece"]

    assert found.value == pytest.approx(float(theirs), abs=1e-6)
    assert found.count == 500


def test_full_confidence_has_a_bin() -> None:
    """A probability of exactly 1 is in the last bin."""
    assert calibration(torch.ones(2), torch.tensor([True, False])).value == pytest.approx(0.5)


# -- Survival ------------------------------------------------------------------------------------


def loop_concordance(
    risk: Tensor, time: Tensor, died: Tensor, may: list[list[bool]] | None = None
) -> tuple[float, float]:
    """Return (concordant + half the ties, comparable pairs) pair by pair, as lifelines counts them.

    Checked against `lifelines.utils.concordance_index` 0.30.3 on 2,687 random cohorts with ties.
    """
    right, pairs = 0.0, 0.0
    people = list(zip(risk.tolist(), time.tolist(), died.tolist(), strict=True))
    for i, (risk_a, time_a, died_a) in enumerate(people):
        for j, (risk_b, time_b, died_b) in enumerate(people[:i]):
            if may is not None and not may[i][j]:
                continue
            if time_a == time_b and died_a == died_b:
                continue
            a_first = died_a if time_a == time_b else time_a < time_b
            if not (died_a if a_first else died_b):
                continue
            pairs += 1
            if risk_a == risk_b:
                right += 0.5
            else:
                right += float((risk_a > risk_b) == bool(a_first))
    return right, pairs


@given(seed=SEEDS, count=st.integers(0, 25))
def test_concordance_is_the_plain_loop(seed: int, count: int) -> None:
    """With tied times, tied risks and censoring."""
    risk, target, _ = cases("survival", 1, seed, count)

    ours = measure(SURVIVAL, risk, target, torch.arange(count), None)["c_index"]

    assert ours.sums == loop_concordance(risk[:, 0], target[:, 0], target[:, 1])


def test_concordance_is_lifelines() -> None:
    """`concordance_index(time, -risk, died)` of lifelines 0.30.3 is 0.676470588... here, from 17 pairs."""
    time = torch.tensor([5.0, 3, 5, 2, 5, 3, 1, 4])
    died = torch.tensor([1, 1, 0, 0, 1, 1, 1, 0]).bool()
    risk = torch.tensor([0.1, 0.7, 0.7, 0.2, 0.7, 0.3, 0.9, 0.4])

    assert concordance(risk, time, died).sums == (11.5, 17.0)


@pytest.mark.parametrize(
    ("time", "died", "sums"),
    [
        ((1.0, 2.0), (1, 1), (1.0, 1.0)),
        ((1.0, 2.0), (0, 1), (0.0, 0.0)),
        ((1.0, 1.0), (1, 0), (1.0, 1.0)),
        ((1.0, 1.0), (0, 1), (0.0, 1.0)),
        ((1.0, 1.0), (1, 1), (0.0, 0.0)),
        ((1.0, 1.0), (0, 0), (0.0, 0.0)),
    ],
)
def test_which_pairs_compare(time: tuple[float, ...], died: tuple[int, ...], sums: tuple[float, ...]) -> None:
    """Of two patients, the first at higher risk."""
    assert concordance(torch.tensor([2.0, 1.0]), torch.tensor(time), torch.tensor(died).bool()).sums == sums


def test_concordance_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by blocks of rows, which change nothing."""
    risk, target, _ = cases("survival", 1, 2, 50)
    whole = concordance(risk[:, 0], target[:, 0], target[:, 1] > 0)
    assert PAIRS_AT_ONCE > 50 * 50

    monkeypatch.setattr("models.metrics.PAIRS_AT_ONCE", 120)

    assert concordance(risk[:, 0], target[:, 0], target[:, 1] > 0) == whole


# -- A model that diverged -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["segmentation", "classification", "survival"])
def test_nan_outputs_say_nothing(kind: str) -> None:
    """NaN counts as 0, so the tallies stay finite and a C-index is one half."""
    logits, targets, patient = cases(kind, 1, 4)
    nan = torch.full_like(logits, torch.nan)

    assert measure(Head(kind), nan, targets, patient, None) == measure(
        Head(kind), 0 * logits, targets, patient, None
    )
    if kind == "survival":
        assert measure(Head(kind), nan, targets, patient, None)["c_index"].value == 0.5


def test_merging_is_by_addition_alone() -> None:
    """Any number of sites: `+` is all that the coordinator needs."""
    logits, labels, patient = cases("classification", 1, 9)
    sites = [
        measure(Head("classification"), logits[i : i + 1], labels[i : i + 1], patient[:1], None)
        for i in range(12)
    ]
    whole = measure(Head("classification"), logits, labels, patient, None)

    assert {name: reduce(add, [site[name] for site in sites]).value for name in whole} == pytest.approx(
        {name: tally.value for name, tally in whole.items()}
    )

"""Two models predict as one: by parameters, case by case, as much of each as the rule says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from client import merging
from client.merging import Merged
from models.catalogue import build_model
from models.flat import Flat
from protocol.batch import Batch
from protocol.recipe import Part, Privacy
from protocol.update import Vectors
from strategies.base import Merge
from strategies.t3_merge import t3_merge
from tests.federation import Federation, cohorts, recipe
from tests.models.cases import batch_for, presence, recipe_for, subsets
from tests.models.invariance import FILLERS, refilled

RECIPE = recipe_for("parallel_unet")
BATCH = batch_for(RECIPE, presence(RECIPE, subsets(tuple(RECIPE.modalities))))


def drawn(seed: int) -> Vectors:
    return {g: v.clone() for g, v in Flat(build_model(replace(RECIPE, seed=seed))).vectors.items()}


COMMON, OWN = drawn(1), drawn(2)


@torch.no_grad()
def predicted(vectors: Vectors, batch: Batch = BATCH) -> dict[str, Tensor]:
    flat = Flat(build_model(RECIPE))
    flat.load(vectors)
    return flat.model.eval()(batch)


def merged(**options: object) -> Merged:
    rule = t3_merge(**{"gamma": 60.0, "threshold": 0.03} | options).local.merge
    assert rule is not None
    return Merged(Flat(build_model(RECIPE)), COMMON, OWN, rule, RECIPE.heads).eval()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for head, logits in found.items():
        torch.testing.assert_close(logits, expected[head])


@pytest.mark.parametrize("each", ["case", "batch", "logits"])
def test_at_its_ends_it_is_one_of_the_two(each: str) -> None:
    same(merged(least=0.0, most=0.0, each=each)(BATCH), predicted(OWN))
    same(merged(least=1.0, most=1.0, each=each)(BATCH), predicted(COMMON))


def check_each_case_has_a_network_of_its_own() -> None:
    """Every case: both predictions, the rule, the parameters in between, by hand."""
    model = merged()
    found, first, second = model(BATCH), predicted(COMMON), predicted(OWN)
    shares = model.share(first, second)
    assert float(shares.max() - shares.min()) > 0.05
    for row, share in enumerate(shares.tolist()):
        between = {g: share * COMMON[g] + (1 - share) * OWN[g] for g in COMMON}
        alone = predicted(between, BATCH.map(lambda x, row=row: x[row : row + 1]))
        same({head: logits[row : row + 1] for head, logits in found.items()}, alone)


def test_each_case_has_a_network_of_its_own() -> None:
    check_each_case_has_a_network_of_its_own()


def _other_way(self: Merged, part: float) -> Vectors:
    return {group: COMMON[group].lerp(own, part) for group, own in OWN.items()}


def _always_half(self: Merged, part: float) -> Vectors:
    return {group: own.lerp(COMMON[group], 0.5) for group, own in OWN.items()}


@pytest.mark.parametrize("broken", [_other_way, _always_half])
def test_a_merge_of_other_parts_is_caught(
    broken: Callable[..., Vectors], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging.Merged, "_merged", broken)
    with pytest.raises(AssertionError):
        check_each_case_has_a_network_of_its_own()


def test_a_batch_of_one_case_over_and_over_is_that_case() -> None:
    rows = torch.zeros(4, dtype=torch.long)
    repeated = BATCH.map(lambda x: x[rows])
    same(merged(each="batch")(repeated), merged(each="case")(repeated))


def test_merged_logits_by_hand() -> None:
    model = merged(each="logits")
    first, second = predicted(COMMON), predicted(OWN)
    share = model.share(first, second)[:, None]
    expected = share * first["grade"] + (1 - share) * second["grade"]
    torch.testing.assert_close(model(BATCH)["grade"], expected)


def test_what_stands_in_an_absent_modality_s_place_changes_nothing() -> None:
    for each in ("case", "batch", "logits"):
        expected = merged(each=each)(BATCH)
        for filler in FILLERS[:3]:
            found = merged(each=each)(refilled(BATCH, tuple(RECIPE.modalities), filler))
            assert all(torch.equal(logits, expected[head]) for head, logits in found.items())


def test_where_nothing_has_probabilities_the_share_is_midway() -> None:
    model = merged(gamma=0.5, threshold=0.0)
    risks = {"risk": torch.randn(3, 1)}
    assert model.share(risks, {"risk": torch.randn(3, 1)}).tolist() == [0.5] * 3


def test_all_heads_with_probabilities_count_alike() -> None:
    """A voxel of a mask is no more than a grade: the mean over a head first, then over heads."""
    seen: list[tuple[int, ...]] = []

    def measure(p: Tensor, q: Tensor) -> Tensor:
        seen.append(tuple(p.shape))
        return torch.full(p.shape[:-1], float(len(seen)))

    rule = Merge(measure, lambda x: x, "case")
    model = Merged(Flat(build_model(RECIPE)), COMMON, OWN, rule, RECIPE.heads)
    outputs = predicted(COMMON)
    assert model.share(outputs, outputs).tolist() == [2.0] * len(BATCH)
    assert sorted(map(len, seen)) == [2, 3, 5]  # grade, idh, tumour


@pytest.mark.slow
def test_a_federation_scores_the_merged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With privacy too: a site's own model is the noised one that it sent."""
    asked: list[Merged] = []
    honest = Merged.forward

    def noted(self: Merged, batch: Batch) -> dict[str, Tensor]:
        asked.append(self)
        return honest(self, batch)

    monkeypatch.setattr(Merged, "forward", noted)
    federation = Federation(tmp_path, cohorts(), monkeypatch)
    strategy = Part("t3_merge", {"each": "batch"})
    federation.run(recipe(strategy=strategy, rounds=2, privacy=Privacy(epsilon=8.0, delta=1e-3)))
    assert asked
    kept = load_file(next((tmp_path / "run" / "sites" / "south").rglob("round-000002.safetensors")))
    assert sorted(kept) == ["personal/head:tumour", "personal/modality:flair", "personal/shared"]

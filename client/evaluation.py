"""Scoring a model at a site: on whole patients, and on every subset of modalities.

    rows       the split's cases with something to see and a label; of a subset, those that own all of it
    predict    the model in mini-batches, seeing those modalities alone
    measure    head by head, on its labelled cases, all together (a patient is never cut in two)

What is hidden is hidden by `present`, through the same door as a modality that the hospital never
acquired (`models.masking`), so a subset scores what such a patient would get.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from imaging.cohort import Cohort
from models.metrics import measure
from protocol.batch import Batch
from protocol.metrics import Tally, subset_name, subsets_of
from protocol.recipe import Recipe

__all__ = ["OWN", "evaluate", "subsets_of"]

OWN = "own"
"""Name of the scores where each case is seen with the modalities that it has."""

VALUES_AT_ONCE = 2**18
"""Values of one modality in a mini-batch: 64 slices of 64x64, or one volume of 64x64x64."""


def evaluate(
    model: nn.Module,
    cohort: Cohort,
    recipe: Recipe,
    split: str,
    subsets: Sequence[tuple[str, ...]] | None,
    *,
    least: int = 1,
) -> dict[str, dict[str, Tally]]:
    """Return subset name -> `head/metric` -> tally over the cases of `split`.

    `subsets` None: the one name `OWN`. Else each subset of modalities on the cases that have
    all of it, seeing just those; a subset that no case has is left out, and a score over fewer than
    `least` patients. Surface distances are measured on the test split alone. The model is left in
    evaluation mode.
    """
    return {
        name: _score(model, cohort, recipe, rows, present, least=least, distances=split == "test")
        for name, rows, present in _views(cohort, cohort.rows(split), subsets)
        if len(rows)
    }


@torch.inference_mode()
def predict(model: nn.Module, cases: Batch, rows: Tensor, present: Tensor) -> dict[str, Tensor]:
    """Return head -> logits of `rows`, on the CPU, each row seeing `present` `(len(rows), M)`."""
    model.eval()
    device = next(model.parameters()).device
    at_once = max(1, VALUES_AT_ONCE // max(x[0].numel() for x in cases.inputs.values()))
    parts: list[dict[str, Tensor]] = []
    for picked, seen in zip(rows.split(at_once), present.split(at_once), strict=True):
        batch = replace(cases.map(lambda x, picked=picked: x[picked]), present=seen, draw=picked)
        outputs = model(batch.map(lambda x: x.to(device)))
        parts.append({head: logits.cpu() for head, logits in outputs.items()})
    return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}


def _score(
    model: nn.Module,
    cohort: Cohort,
    recipe: Recipe,
    rows: Tensor,
    present: Tensor,
    *,
    least: int,
    distances: bool,
) -> dict[str, Tally]:
    scores: dict[str, Tally] = {}
    for name, logits in predict(model, cohort.cases, rows, present).items():
        has = cohort.cases.labelled[name][rows]
        if cohort.patients_in(rows[has]) < least:
            continue
        kept, targets = rows[has], cohort.cases.targets[name]
        found = measure(
            recipe.heads[name],
            logits[has],
            targets[kept],
            cohort.patient[kept],
            cohort.spacing_mm,
            distances=distances,
        )
        scores |= {f"{name}/{metric}": tally for metric, tally in found.items()}
    return scores


def _views(
    cohort: Cohort, rows: Tensor, subsets: Sequence[tuple[str, ...]] | None
) -> Iterator[tuple[str, Tensor, Tensor]]:
    owned = cohort.cases.present[rows]
    if subsets is None:
        yield OWN, rows, owned
        return
    for subset in subsets:
        seen = torch.tensor([modality in subset for modality in cohort.modalities])
        complete = (owned | ~seen).all(1)
        yield subset_name(subset), rows[complete], seen.expand(int(complete.sum()), -1)

"""The protocol: a trained model on the test patients of every site, under every failure and corruption.

    conditions   what the model is shown: `server.robustness` lists the families
    examined     condition -> site -> each metric's tally for any draw of the site's patients

A case is shown under a pattern of failures if it has everything that is left by it; so a pattern is measured
on the same cases in each family, and one that no case allows is left out. What chance does to a patient
follows from the seed, the patient's name at the site and the condition, not from who else is there.

Scores of single patients exist in here, and only sums over draws of patients are written down. A real site
never sends them, so this runs on simulated sites alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from client.evaluation import predict
from client.sampling import seeded
from client.site import Site
from imaging.cohort import Cohort, join
from models.corruptions import LEVELS, SEVERITIES, corrupted, kind_of
from models.encoders import images_of
from models.failures import NOISE, RATES, changed, declared, holed, noisy, zeroed
from models.metrics import compared, measure, voxel_calibration
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.metrics import METRICS, Tally, subset_name, subsets_of
from protocol.recipe import Head, Recipe
from server.estimates import Condition, Protocol, Seen, ece_of
from server.resampling import Resample, Sample, additive, paired
from server.robustness import OWN

CLEAN = (OWN, "declared")
"""Families in which nothing is damaged: a few conditions of more than a hundred."""
Damage = Callable[[Batch, torch.Generator], Batch]
Samples = dict[Condition, dict[str, Seen]]


@dataclass(frozen=True)
class Shown:
    """A condition as something to do: what a case must have, and what becomes of it."""

    family: str
    level: str
    needs: tuple[str, ...]
    damage: Damage
    metrics: tuple[str, ...]


def protocol_of(recipe: Recipe, metric: str = "") -> Protocol:
    """Return what to measure, by default what the recipe selects its best model by.

    Raises RecipeError where that is no metric of one of its heads.
    """
    chosen = metric or recipe.evaluation.select
    head, _, name = chosen.partition("/")
    if head not in recipe.heads or name not in METRICS or name == "hd95_mm":
        raise RecipeError(
            f"'{chosen}' is no metric to evaluate by: name one as head/metric, "
            f"heads: {', '.join(recipe.heads)}"
        )
    kind = recipe.heads[head].kind
    error = {"segmentation": "dice", "classification": "balanced_accuracy", "survival": "c_index"}[kind]
    kinds = {kind_of(image) for image in images_of(recipe.modalities)}
    corruptions = dict.fromkeys(c for kind in SEVERITIES if kind in kinds for c in SEVERITIES[kind])
    return Protocol(chosen, f"{head}/{error}", tuple(recipe.modalities), tuple(corruptions))


def conditions(recipe: Recipe, protocol: Protocol) -> list[Shown]:
    """Return everything that the model is shown, clean cases first."""
    every = (protocol.metric, ece_of(protocol.metric), protocol.error)
    shown = [Shown(OWN, OWN, (), lambda cases, _: cases, every)]
    for left in subsets_of(tuple(recipe.modalities)):
        shown += _failing(tuple(recipe.modalities), left, (protocol.metric,))
    if images_of(recipe.modalities):
        shown += [_noised(recipe, level, (protocol.metric,)) for level in NOISE]
    for name in protocol.corruptions:
        both = (protocol.metric, protocol.error)
        shown += [_spoilt(recipe, name, severity, both) for severity in range(1, LEVELS + 1)]
    return shown


def _failing(names: tuple[str, ...], left: tuple[str, ...], metrics: tuple[str, ...]) -> Iterator[Shown]:
    """Yield every way in which all modalities but those `left` can fail."""
    lost, level = tuple(name for name in names if name not in left), subset_name(left)
    yield Shown("declared", level, left, lambda cases, _: declared(cases, names, lost), metrics)
    if lost:
        yield Shown("zeroed", level, left, lambda cases, _: zeroed(cases, names, lost), metrics)
        for rate in RATES:
            yield Shown(f"rmm{rate:g}", level, left, _holing(names, lost, rate), metrics)


def _holing(names: tuple[str, ...], lost: tuple[str, ...], rate: float) -> Damage:
    return lambda cases, chance: holed(cases, names, lost, rate, chance)


def _noised(recipe: Recipe, level: str, metrics: tuple[str, ...]) -> Shown:
    names, images = tuple(recipe.modalities), images_of(recipe.modalities)
    return Shown("nm", level, (), lambda cases, chance: noisy(cases, names, images, level, chance), metrics)


def _spoilt(recipe: Recipe, corruption: str, severity: int, metrics: tuple[str, ...]) -> Shown:
    names, images = tuple(recipe.modalities), images_of(recipe.modalities)

    def damage(cases: Batch, chance: torch.Generator) -> Batch:
        for image in images:
            kind = kind_of(image)
            spoil = partial(corrupted, kind=kind, name=corruption, severity=severity, generator=chance)
            cases = changed(cases, names, (image,), spoil)
        return cases

    return Shown(corruption, str(severity), (), damage, metrics)


# -- Scoring -------------------------------------------------------------------------------------


def examined(
    sites: Iterable[Site], shown: Sequence[Shown], protocol: Protocol, seed: int, watch: Callable[[], object]
) -> tuple[Samples, dict[str, int]]:
    """Show each site's test patients under each condition; return samples, and site -> patients.

    `watch` is called after each condition at each site. A site without labelled test patients is left out.
    """
    found: Samples = {Condition(each.family, each.level): {} for each in shown}
    patients: dict[str, int] = {}
    for site in sites:
        name, rows = site.settings.site, judged(site.cohort, protocol)
        if len(rows):
            patients[name] = site.cohort.patients_in(rows)
        for each in shown:
            seen = rows[_has(site.cohort, rows, each.needs)]
            if len(seen):
                scores = sample(site, each, rows, seen, seed)
                found[Condition(each.family, each.level)][name] = Seen(site.cohort.patients_in(seen), scores)
            watch()
    return {condition: sites for condition, sites in found.items() if sites}, patients


def judged(cohort: Cohort, protocol: Protocol) -> Tensor:
    """Return the test cases that have the metric's label, `(n,)`."""
    rows = cohort.rows("test")
    return rows[cohort.cases.labelled[protocol.metric.partition("/")[0]][rows]]


def _has(cohort: Cohort, rows: Tensor, needs: Sequence[str]) -> Tensor:
    wanted = torch.tensor([name in needs for name in cohort.modalities])
    return (cohort.cases.present[rows] | ~wanted).all(1)


def sample(site: Site, shown: Shown, rows: Tensor, seen: Tensor, seed: int) -> Sample:
    """Return each wanted metric of the cases `seen`, for any draw of the patients of `rows`."""
    cohort, head = site.cohort, shown.metrics[0].partition("/")[0]
    owner = cohort.patient[seen]
    batch = join([_damaged(site, shown, int(p), seen[owner == p], seed) for p in owner.unique()])
    owner = owner.sort(stable=True).values  # as `batch` has them
    logits = predict(site.model, batch, torch.arange(len(batch)), batch.present)[head]
    place = torch.searchsorted(cohort.patient[rows].unique(), owner)
    told = _tallied(site.recipe.heads[head], logits, batch.targets[head], place, cohort.patients_in(rows))
    return {f"{head}/{name}": told[name] for name in told if f"{head}/{name}" in shown.metrics}


def _damaged(site: Site, shown: Shown, patient: int, rows: Tensor, seed: int) -> Batch:
    name = site.cohort.patients[patient]
    chance = seeded("robustness", seed, site.settings.site, name, shown.family, shown.level)
    return shown.damage(site.cohort.cases.map(lambda x: x[rows]), chance)


def _tallied(
    head: Head, logits: Tensor, targets: Tensor, place: Tensor, patients: int
) -> dict[str, Resample]:
    """Return metric -> resample; case `i` is of the patient at `place[i]` of `patients`."""
    if head.kind == "survival":
        time, died = targets[:, 0], targets[:, 1] > 0
        pairs = compared(torch.arange(len(time)), torch.nan_to_num(logits[:, 0]), time, died)
        return {"c_index": paired(pairs[0].numpy(), pairs[1].numpy(), place.tolist())}
    single = {int(p): _of_patient(head, logits[place == p], targets[place == p]) for p in place.unique()}
    metrics: Mapping[str, Tally] = next(iter(single.values()))
    return {m: additive({p: told[m] for p, told in single.items()}, patients) for m in metrics}


def _of_patient(head: Head, logits: Tensor, targets: Tensor) -> dict[str, Tally]:
    found = measure(head, logits, targets, torch.zeros(len(logits), dtype=torch.long), None)
    return found | {"ece": voxel_calibration(logits, targets)} if head.kind == "segmentation" else found

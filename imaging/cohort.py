"""A site's patients as tensors, split by patient.

A *case* is one training example: an image slice, a volume, a row of a table. A patient may
have many, and all of them stand in one split, so that no score is measured on a patient
who was trained on. Row `i` of every tensor is case `i`; `patient[i]` says whose it is.

What a site tells others about its cohort are the counts below, never a name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import torch
from torch import Tensor

from protocol.batch import Batch
from protocol.errors import DataError
from protocol.groups import SHARED, head_group, modality_group
from protocol.recipe import Recipe

SPLITS = ("train", "validation", "test")

Tell = Callable[[int, int], int]
"""`(count, patients behind it)` -> the count as others are told it; 0 where they are not."""


def exactly(count: int, patients: int) -> int:  # noqa: ARG001 - the signature of a `Tell`
    """Tell a count as it is."""
    return count


@dataclass(frozen=True)
class Cohort:
    """N cases of a site.

    `modalities`  the recipe's, in the order of `cases.present`'s columns
    `patients`    names, known only here
    `patient`     `(N,)` int64 index into `patients`
    `split`       `(N,)` int64 index into `SPLITS`
    `spacing_mm`  size of a pixel or voxel; None where unknown, or for tables
    """

    site: str
    modalities: tuple[str, ...]
    patients: tuple[str, ...]
    patient: Tensor
    split: Tensor
    cases: Batch
    spacing_mm: tuple[float, ...] | None

    @property
    def usable(self) -> Tensor:
        """Bool `(N,)`: cases with something to see and something to learn."""
        labelled = torch.stack(list(self.cases.labelled.values()), 1)  # (N, heads)
        return self.cases.present.any(1) & labelled.any(1)

    def rows(self, split: str) -> Tensor:
        """Return the usable cases of a split, `(n,)` int64 in ascending order."""
        return (self.usable & (self.split == SPLITS.index(split))).nonzero().flatten()

    def users(self, split: str = "train") -> dict[str, Tensor]:
        """Return group -> rows of the split that train it, `(n,)`; groups without any are left out.

        Everything shared is trained by every usable case, a modality's group by those who
        have the modality, a head's by those who have the label.
        """
        rows = self.rows(split)
        present = self.cases.present[rows]
        users = {SHARED: rows}
        users |= {modality_group(name): rows[present[:, m]] for m, name in enumerate(self.modalities)}
        users |= {head_group(name): rows[has[rows]] for name, has in self.cases.labelled.items()}
        return {group: each for group, each in users.items() if len(each)}

    def counts(self, split: str = "train") -> dict[str, int]:
        """Return group -> usable cases of the split that train it."""
        return {group: len(rows) for group, rows in self.users(split).items()}

    def patients_in(self, rows: Tensor) -> int:
        """Count the patients whose cases these are."""
        return len(self.patient[rows].unique())

    def summary(self, tell: Tell = exactly) -> dict[str, object]:
        """Return the site's description of itself: counts alone, as plain data, as `tell` tells them.

        `patients`, `cases`: split -> count; `patterns`: modalities joined by '+' -> training
        cases; `labels`: head -> training cases that have it.
        """
        rows = {split: self.rows(split) for split in SPLITS}
        heads = {head: rows["train"][has[rows["train"]]] for head, has in self.cases.labelled.items()}
        patients = {split: self.patients_in(each) for split, each in rows.items()}

        def told(each: Tensor) -> int:
            return tell(len(each), self.patients_in(each))

        return {
            "site": self.site,
            "patients": {split: tell(count, count) for split, count in patients.items()},
            "cases": {split: told(each) for split, each in rows.items()},
            "patterns": {n: c for n, each in self._patterns(rows["train"]).items() if (c := told(each))},
            "labels": {head: told(each) for head, each in heads.items()},
        }

    def _patterns(self, rows: Tensor) -> dict[str, Tensor]:
        patterns, places = self.cases.present[rows].unique(dim=0, return_inverse=True)
        names = ["+".join(compress(self.modalities, pattern)) for pattern in patterns.tolist()]
        return {name: rows[places == place] for place, name in sorted(enumerate(names), key=lambda n: n[1])}


def assemble(
    site: str,
    recipe: Recipe,
    patients: Mapping[str, Batch],
    split: Mapping[str, int],
    spacing_mm: tuple[float, ...] | None = None,
) -> Cohort:
    """Make a cohort of each patient's cases; patients stand in the order of their names."""
    somebody = {name: patients[name] for name in sorted(patients) if len(patients[name])}
    if not somebody:
        raise nobody(site)
    counts = {name: len(cases) for name, cases in somebody.items()}
    return of_patients(site, recipe, counts, join([*somebody.values()]), split, spacing_mm=spacing_mm)


def of_patients(
    site: str,
    recipe: Recipe,
    counts: Mapping[str, int],
    cases: Batch,
    split: Mapping[str, int],
    *,
    spacing_mm: tuple[float, ...] | None,
) -> Cohort:
    """Make a cohort of everybody's cases; `counts`: patient -> how many, in the order of the rows."""
    names = tuple(name for name, count in counts.items() if count)
    owners = torch.repeat_interleave(torch.tensor([counts[name] for name in names]))
    splits = torch.tensor([split[name] for name in names])
    return Cohort(site, tuple(recipe.modalities), names, owners, splits[owners], cases, spacing_mm)


def concatenate(site: str, cohorts: Sequence[Cohort]) -> Cohort:
    """Return the union of several sites' cases under one name, every case in its old split.

    Equal names at two sites are two patients.
    """
    if not cohorts:
        raise nobody(site)
    offsets = [sum(len(c.patients) for c in cohorts[:i]) for i in range(len(cohorts))]
    spacings = {cohort.spacing_mm for cohort in cohorts}
    return Cohort(
        site,
        cohorts[0].modalities,
        tuple(f"{cohort.site}/{name}" for cohort in cohorts for name in cohort.patients),
        torch.cat([cohort.patient + offset for cohort, offset in zip(cohorts, offsets, strict=True)]),
        torch.cat([cohort.split for cohort in cohorts]),
        join([cohort.cases for cohort in cohorts]),
        spacings.pop() if len(spacings) == 1 else None,
    )


def only(cohort: Cohort, split: str) -> Cohort:
    """Return the cohort with the cases of one split alone; patients keep their numbers."""
    rows = (cohort.split == SPLITS.index(split)).nonzero().flatten()
    return replace(
        cohort,
        patient=cohort.patient[rows],
        split=cohort.split[rows],
        cases=cohort.cases.map(lambda x: x[rows]),
    )


def contributed(cohort: Cohort, least: int) -> Cohort:
    """Return the cohort where what fewer than `least` training patients have counts as absent.

    A modality or a label that few have is hidden from training, in these patients too: so
    its group has no user here, and what they share with others trains as if they lacked it. Held-out
    cases keep everything.
    """
    rare = [
        group
        for group, rows in cohort.users("train").items()
        if group != SHARED and cohort.patients_in(rows) < least
    ]
    if not rare:
        return cohort
    # Without it, other patients may have nothing left to learn from: look again.
    return contributed(_hidden(cohort, rare), least)


def _hidden(cohort: Cohort, groups: Sequence[str]) -> Cohort:
    training = cohort.split == SPLITS.index("train")
    gone = torch.tensor([modality_group(name) in groups for name in cohort.modalities])
    present = cohort.cases.present & ~(training[:, None] & gone)
    labelled = {
        head: has & ~training if head_group(head) in groups else has
        for head, has in cohort.cases.labelled.items()
    }
    return replace(cohort, cases=replace(cohort.cases, present=present, labelled=labelled))


def join(batches: Sequence[Batch]) -> Batch:
    """Return all batches' cases as one batch, in order."""
    first = batches[0]
    return Batch(
        {name: torch.cat([b.inputs[name] for b in batches]) for name in first.inputs},
        torch.cat([b.present for b in batches]),
        {name: torch.cat([b.targets[name] for b in batches]) for name in first.targets},
        {name: torch.cat([b.labelled[name] for b in batches]) for name in first.labelled},
    )


def checked(cohort: Cohort, recipe: Recipe) -> Cohort:
    """Return `cohort` if a model can train on it; `DataError` says what is wrong with how many cases."""
    _as_wide_as_declared(cohort, recipe)
    for column, name in enumerate(cohort.modalities):
        present = cohort.cases.present[:, column]
        # Case by case: all at once would need a quarter of the cohort's size in memory.
        wild = ~torch.stack([case.isfinite().all() for case in cohort.cases.inputs[name]]) & present
        _none(wild, cohort, f"hold NaN or infinite values in '{name}'", "remove or repair them")
    for name, head in recipe.heads.items():
        target, labelled = cohort.cases.targets[name], cohort.cases.labelled[name]
        if head.kind == "classification":
            wrong = (target < 0) | (target >= max(head.classes, 2))
            _none(wrong & labelled, cohort, f"have a label '{name}' out of range", "correct it")
        elif head.kind == "survival":
            time, event = target.unbind(1)
            wrong = ~(time >= 0) | ~time.isfinite() | ((event != 0) & (event != 1))
            _none(wrong & labelled, cohort, f"have no valid time and event for '{name}'", "correct them")
    return cohort


def _as_wide_as_declared(cohort: Cohort, recipe: Recipe) -> None:
    tables = {name: m.features for name, m in recipe.modalities.items() if m.kind == "table"}
    maps = {name: head.classes for name, head in recipe.heads.items() if head.kind == "segmentation"}
    inputs, targets = cohort.cases.inputs, cohort.cases.targets
    widths = [(f"modalities.{name}.features", inputs[name].shape[1], want) for name, want in tables.items()]
    widths += [(f"heads.{name}.classes", targets[name].shape[1], want) for name, want in maps.items()]
    for key, found, want in widths:
        if found != want:
            msg = f"site '{cohort.site}' has {found} where the recipe says {key}: {want}; make them agree"
            raise DataError(msg)


def with_pretexts(cohort: Cohort, recipe: Recipe) -> Cohort:
    """Return the cohort with the recipe's pretexts, which no file holds: whoever has an input has them."""
    cases = cohort.cases
    names = [name for name, head in recipe.heads.items() if head.kind == "pretext"]
    targets = {**cases.targets, **dict.fromkeys(names, torch.empty(len(cases), 0))}
    labelled = {**cases.labelled, **dict.fromkeys(names, cases.present.any(1))}
    return replace(cohort, cases=replace(cases, targets=targets, labelled=labelled))


def renamed(cohort: Cohort, site: str) -> Cohort:
    """Return the same cohort under the site's own name."""
    return replace(cohort, site=site)


OWN = "own"
"""What a whole folder is called that is one site: its name may be a person's, and errors leave the site."""


def nobody(site: str) -> DataError:
    """Return the error of a site that has no cases."""
    return DataError(f"site '{site}' has no patient with anything that the recipe uses: check its folder")


def _none(wrong: Tensor, cohort: Cohort, what: str, remedy: str) -> None:
    if count := int(wrong.sum()):
        msg = f"site '{cohort.site}': {count} of {len(wrong)} cases {what}: {remedy}"
        raise DataError(msg)

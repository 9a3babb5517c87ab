"""Tables on one scale, by what may be known of the site's patients.

A table comes from its source scaled by fixed, published constants, so that most values lie within
`BOUND` of 0. That needs no patient. With `privacy.statistics_noise` each feature is then brought to
mean 0 and variance 1 by noised moments of the training patients (`privacy.statistics`): a scale
taken from the patients themselves would let each of them move all others' features, and a bounded
gradient would bound nothing.

Measured once a run, at the first task that needs it: reserved in the ledger as round 0, measured,
kept beside the site's memory, committed. What is kept is what was paid for, and not a secret.
"""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from client.site import Site
from client.spending import pay, statistics
from privacy.noise import SecureGenerator
from privacy.statistics import moments
from protocol import files
from protocol.messages import Task

BOUND = 3.0
"""In the source's own units; values beyond count as that far away when moments are taken."""
LEAST_SPREAD = 0.1
"""No feature is stretched more than tenfold, however little is left of its variance under noise."""


def standardised(site: Site, task: Task) -> Site:
    """Return the site with its tables scaled; the site itself where the recipe does not ask for it."""
    tables = statistics(site.recipe)
    if not tables:
        return site
    scales = _scales(site, task)
    cases = site.cohort.cases
    scaled = {name: _scaled(cases.inputs[name], scales[name]) for name in tables}
    return replace(site, cohort=replace(site.cohort, cases=replace(cases, inputs={**cases.inputs, **scaled})))


def _scaled(values: Tensor, scale: Tensor) -> Tensor:
    mean, spread = scale
    return (values - mean) / spread


def _scales(site: Site, task: Task) -> dict[str, Tensor]:
    """Return table -> `(2, F)` means and spreads, measured now or before."""
    path = site.folder(task.run) / "statistics.safetensors"
    if not path.exists():
        with pay(site, task):
            _keep(path, {name: _measured(site, name) for name in statistics(site.recipe)})
    return load_file(path)


def _measured(site: Site, name: str) -> Tensor:
    cohort, noise = site.cohort, site.recipe.privacy.statistics_noise or 0.0
    has = cohort.cases.present[site.rows, cohort.modalities.index(name)]
    rows = site.rows[has]
    values = cohort.cases.inputs[name][rows]
    bounds = [BOUND] * values.shape[1]
    found = moments(values, cohort.patient[rows], [-b for b in bounds], bounds, noise, SecureGenerator())
    return torch.stack([found.mean(), found.variance().sqrt().clamp(min=LEAST_SPREAD)]).float()


def _keep(path: Path, scales: dict[str, Tensor]) -> None:
    files.write(path, save(scales))

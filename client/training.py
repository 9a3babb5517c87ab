"""One round at a site, top to bottom.

    spend      `spending.paid` reserves the round's privacy events in the ledger, or refuses
    load       the global parameters, and what the site remembers
    walk       for each step: gradient -> the strategy's correction -> optimiser
    subtract   update = local - global, in place
    release    the last look; then the ledger keeps the reply, and it leaves

A gradient comes from one of two sources with one shape: `plain` (the batch's mean loss) or
`private` (per-patient clipped, summed, noised). The rest of the loop cannot tell. Where noise is split over
the sites (`privacy.split`) there is no walk: the clipped sum of one step leaves, with a share of the noise.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from client import memory
from client.egress import release
from client.sampling import in_turn, poisson, seeded, shuffled
from client.site import Site
from client.spending import Spending, paid
from client.standardise import standardised
from client.teaching import Lesson, lesson
from models.masking import modality_dropout
from models.objectives import case_losses, total_loss
from privacy.dpsgd import PrivateGradient
from privacy.ftrl import Stream, stream
from privacy.noise import SecureGenerator
from privacy.split import Split, split_of
from protocol.batch import Batch
from protocol.errors import DataError, PrivacyError
from protocol.groups import PRIVATE, kind_of
from protocol.messages import Reply, Task
from protocol.recipe import Recipe
from protocol.update import Update, Vectors

Losses = Iterator[Tensor]
"""One item a step; when it is yielded, the step's gradient stands in `flat.grads`."""


def train(site: Site, task: Task) -> Reply:
    """Train one round on `task.vectors` and answer with the update."""
    if site.recipe.secure.enabled and task.kind == "train":
        raise PrivacyError("the recipe promises secure aggregation: this site only answers its masked steps")
    if not len(site.rows):
        msg = f"site '{site.settings.site}' has no training cases: check its data folder and the split"
        raise DataError(msg)
    if not trained(site):
        msg = f"training.frozen leaves site '{site.settings.site}' nothing to train: it has none of the rest"
        raise DataError(msg)
    split = split_of(site.recipe)
    return paid(standardised(site, task), task, _round if split is None else partial(_summed, split))


def _round(site: Site, task: Task, spending: Spending | None) -> Reply:
    started = time.perf_counter()
    here = partial(_moved, device=site.settings.device)
    task = replace(task, vectors=here(task.vectors), received={n: here(v) for n, v in task.received.items()})
    kept = {n: here(v) for n, v in memory.recall(site.memory(task), task.round).items()}
    if site.local.personal is not None:
        kept["personal"] = _personal(site, task, kept)
    update, kept, loss = _global(site, task, kept, spending)
    memory.remember(site.memory(task), task.round, kept)
    update = release(update, site.owned, site.policy.leaves)
    facts = {"seconds": time.perf_counter() - started}
    if spending is None:
        facts["loss"] = loss
    return Reply(site.settings.site, task.kind, task.run, task.round, update, facts)


def _summed(split: Split, site: Site, task: Task, spending: Spending | None) -> Reply:
    """Answer with integers: the clipped sum of one step, and this site's share of the noise on it."""
    started = time.perf_counter()
    if spending is None:
        raise PrivacyError("secure.noise_over splits the noise of privacy, and privacy.epsilon is null")
    generator, groups = SecureGenerator(), trained(site)
    site.flat.load(_moved(task.vectors, site.settings.device))
    _noiseless(site, spending)
    deltas = {group: split.encode(site.flat.grads[group].cpu(), generator) for group in groups}
    patients = dict.fromkeys(site.owned, site.policy.counts.rounded(len(spending.cases_of)))
    update = Update(deltas, {group: patients[group] for group in groups}, 1.0)
    update = release(update, patients, site.policy.leaves)
    facts = {"seconds": time.perf_counter() - started}
    return Reply(site.settings.site, task.kind, task.run, task.round, update, facts)


def _noiseless(site: Site, spending: Spending) -> None:
    """Leave the clipped sum of one Poisson sample in `flat.grads`: nothing covers it yet."""
    bare = replace(spending, event=replace(spending.event, noise_multiplier=0.0), expected_batch=1.0)
    site.flat.train_only(trained(site))
    site.flat.model.train()
    for _ in private(site, bare):
        pass


def _moved(vectors: Vectors, device: str) -> Vectors:
    return {group: vector.to(device) for group, vector in vectors.items()}


def _global(
    site: Site, task: Task, kept: dict[str, Vectors], spending: Spending | None
) -> tuple[Update, dict[str, Vectors], float]:
    flat, local = site.flat, site.local
    start = task.vectors | flat.initial | kept.get(PRIVATE, {})
    flat.load(start)
    noise = None if spending is None or not spending.slots else correlated(site, spending, kept)
    source = plain(site, task.round) if spending is None else private(site, spending, noise)

    def correct(group: str, grad: Tensor, here: Tensor) -> None:
        if local.correct is not None and group != PRIVATE:
            local.correct(group, grad, here, start[group], task.received, kept)

    steps, loss = walk(site, trained(site), source, correct)
    here = {group: flat.vectors[group] for group in task.vectors}
    extras: dict[str, Vectors] = {}
    if local.finish is not None:
        extras, learned = local.finish(
            task.vectors, here, task.received, kept, steps, site.recipe.training.rate
        )
        kept = kept | learned
    if noise is not None:
        kept = kept | {"noise": noise.memory()}
    if PRIVATE in flat.vectors:
        kept = kept | {PRIVATE: {PRIVATE: flat.vectors[PRIVATE].clone()}}
    # In place: the model's own memory becomes the update, and the next task overwrites it.
    deltas = {group: vector.sub_(task.vectors[group]) for group, vector in here.items()}
    counts = {group: site.owned[group] for group in deltas}
    return Update(deltas, counts, steps, extras), kept, loss


def _personal(site: Site, task: Task, kept: dict[str, Vectors]) -> Vectors:
    pull = site.local.personal or 0.0
    site.flat.load(kept.get("personal", task.vectors))

    def correct(group: str, grad: Tensor, here: Tensor) -> None:
        grad.add_(here - task.vectors[group], alpha=pull)

    walk(site, [group for group in trained(site) if group in task.vectors], plain(site, task.round), correct)
    return {group: site.flat.vectors[group].clone() for group in task.vectors}


def walk(
    site: Site, groups: list[str], losses: Losses, correct: Callable[[str, Tensor, Tensor], None]
) -> tuple[float, float]:
    """Take every step of `losses`; return (steps, mean loss)."""
    flat = site.flat
    flat.train_only(groups)
    flat.model.train()
    optimiser = optimiser_for(site.recipe, groups, flat.vectors, flat.grads)
    total, steps = torch.zeros(()), 0
    for loss in losses:
        for group in groups:
            correct(group, flat.grads[group], flat.vectors[group])
        optimiser.step()
        total, steps = total + loss, steps + 1
    return float(steps), float(total) / max(steps, 1)


def plain(site: Site, number: int) -> Losses:
    """Leave the gradient of the mean loss of each shuffled batch of round `number`."""
    recipe, flat, seed = site.recipe, site.flat, (site.recipe.seed, site.settings.site)
    changes = seeded(*seed, "changes", number)
    today = lesson(site)
    for rows in shuffled(site.rows, recipe.training, seed, number):
        batch = shown(site, today, rows, changes)
        for grad in flat.grads.values():
            grad.zero_()
        loss = total_loss(flat.model(batch), batch, recipe.heads, today.objectives)
        loss.backward()
        yield loss.detach()


def correlated(site: Site, spending: Spending, kept: dict[str, Vectors]) -> Stream:
    """Go on with the noise and the slots that the last round left."""
    memory = {name: vector.cpu() for name, vector in kept.get("noise", {}).items()}
    size = sum(site.flat.layout.size(group) for group in trained(site))
    bands = site.recipe.privacy.bands
    return stream(memory, len(spending.cases_of), spending.slots, size, bands)


def private(site: Site, spending: Spending, noise: Stream | None = None) -> Losses:
    """Leave the noisy gradient of each batch of patients: Poisson ones, or `noise`'s in turn."""
    recipe, flat, generator = site.recipe, site.flat, SecureGenerator()
    changes = torch.Generator().manual_seed(int(generator.randint(2**31, 1)))
    groups, event = trained(site), spending.event
    today = lesson(site)
    flat.train_only(groups)
    blocks = [flat.parameters([group]) for group in groups] if recipe.privacy.clipping == "per_group" else ()

    def losses(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        return case_losses(outputs, batch, recipe.heads, today.objectives)

    gradient = PrivateGradient(
        flat.model,
        flat.parameters(groups),
        recipe.privacy.clip_norm,
        event.noise_multiplier * (noise.influence if noise else 1.0),
        spending.expected_batch,
        noise.noise if noise else generator,
        recipe.privacy.mode,
        blocks=blocks,
    )
    batches = (
        in_turn(spending.cases_of, noise.slots, spending.slots, event.steps, generator)
        if noise
        else poisson(spending.cases_of, event.sampling_rate, event.steps, generator)
    )
    with closing(gradient):
        for rows in batches:
            gradient(shown(site, today, rows, changes) if len(rows) else None, losses)
            # No noise covers a loss: under privacy nobody learns it, the site's own log included.
            yield torch.full((), math.nan)


def shown(site: Site, today: Lesson, rows: Tensor, changes: torch.Generator) -> Batch:
    """Return what a step sees of the cases `rows` `(B,)`, and what it is taught of them."""
    whole = site.cohort.cases.map(lambda x: x[rows])
    batch = on_device(site, varied(whole, site.recipe, changes))
    return today.taught(batch, whole.present.to(batch.present.device))


def on_device(site: Site, batch: Batch) -> Batch:
    """Return the batch where the site trains."""
    device = site.settings.device
    return batch if device == "cpu" else batch.map(lambda x: x.to(device))


def varied(batch: Batch, recipe: Recipe, generator: torch.Generator) -> Batch:
    """Hide modalities and mirror images as the recipe says, case by case; give a pretext its chance."""
    training = recipe.training
    if training.modality_dropout:
        batch = replace(batch, present=modality_dropout(batch.present, training.modality_dropout, generator))
    if training.flips:
        batch = flipped(batch, recipe, generator)
    if any(head.kind == "pretext" for head in recipe.heads.values()):
        batch = replace(batch, draw=torch.randint(2**62, (len(batch),), generator=generator))
    return batch


def flipped(batch: Batch, recipe: Recipe, generator: torch.Generator) -> Batch:
    """Mirror each case along its first image axis with chance one half, mask and all."""
    mirrored = torch.rand(len(batch), generator=generator) < 0.5  # noqa: PLR2004 - a fair coin

    def flip(x: Tensor) -> Tensor:
        rows = mirrored.view(-1, *[1] * (x.ndim - 1))
        return torch.where(rows, x.flip(2), x)

    images = {n: flip(x) if recipe.modalities[n].kind == "image" else x for n, x in batch.inputs.items()}
    masks = {n: flip(y) if recipe.heads[n].kind == "segmentation" else y for n, y in batch.targets.items()}
    return replace(batch, inputs=images, targets=masks)


def optimiser_for(
    recipe: Recipe, groups: list[str], vectors: Vectors, grads: Vectors
) -> torch.optim.Optimizer:
    """Build the recipe's optimiser over whole group vectors; fresh in every round."""
    training, parameters = recipe.training, []
    for group in groups:
        parameter = torch.nn.Parameter(vectors[group])
        parameter.grad = grads[group]
        parameters.append(parameter)
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, training.rate, momentum=training.momentum, weight_decay=training.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
    return kind(parameters, training.rate, weight_decay=training.weight_decay)


def trained(site: Site) -> list[str]:
    """Return the groups that training changes here: what the site owns, and what is private.

    A frozen group travels as any other, and its update is zero whatever the data are: it needs no noise, and
    leaves to the others all of a patient's clip norm.
    """
    mine = (group for group in site.flat.vectors if group in site.owned or group == PRIVATE)
    return [group for group in mine if kind_of(group) not in site.recipe.training.frozen]

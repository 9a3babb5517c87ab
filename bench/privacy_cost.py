"""What a private step costs beside an ordinary one, for every network and every way to have row gradients.

    python -m bench.privacy_cost [NAME ...]        every model of the catalogue, or those whose names begin so

The floor is the same network, loss and batch with autograd's own gradient. A private step is the
whole of `PrivateGradient`: rows' gradients, bounds, sum and noise. Times are CPU seconds on one
thread, the least of several turns, all contenders taking turns; memory is what a step adds to the
process at its highest, each contender in a process of its own. Both are given as ratios.
"""

import inspect
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.memory import peak_of
from models.base import MultiModal
from models.catalogue import MODELS, build_model, build_objectives
from models.objectives import case_losses
from privacy.dpsgd import PrivateGradient
from privacy.noise import SecureGenerator
from protocol.batch import Batch
from protocol.errors import PrivacyError, RecipeError
from protocol.recipe import Head, Modality, Part, Recipe

MODES = ("auto", "hooks", "functorch", "ew")
TURNS = 3
IMAGES = {name: Modality() for name in ("flair", "t1", "t1c", "t2")}
TABLE = {"table": Modality("table", 39)}
TUMOUR = {"y": Head("segmentation", 1, Part("dice_ce"))}
GRADE = {"y": Head("classification", 1, Part("bce"))}
SCAN = {"scan": Head("pretext", 1, Part("own"))}
TWO = {"y": Head("classification", 2, Part("ce"))}
VIEWS = {"scan": Head("pretext", 1, Part("dino"))}

USES = (
    (("", IMAGES, TUMOUR), ("", IMAGES, GRADE), ("", TABLE, GRADE), ("", IMAGES, TWO)),
    (
        (", pretext", IMAGES, SCAN),
        (", pretext too", IMAGES, TUMOUR | SCAN),
        (", pretext too", IMAGES, TWO | VIEWS),
    ),
)
"""Of either row, the first that a model can be used for is measured."""
BATCHES = {2: (16, (64, 64)), 3: (4, (32, 32, 32))}
CHANNELS = {2: (16, 32, 64, 128), 3: (8, 16, 32, 64)}
OTHER_CHANNELS = {("mm_cascade", 3): (8, 16, 32, 48)}
"""A token's features must be a multiple of six to hold a place in a volume."""


@dataclass(frozen=True)
class Net:
    """A network of the catalogue and its batch: rows and an image's shape."""

    recipe: Recipe
    rows: int
    shape: tuple[int, ...]


def nets() -> dict[str, Net]:
    """Return every network of the catalogue by name, use and dimensions, of a size that people use."""
    found: dict[str, Net] = {}
    for name, builder in MODELS.items():
        known = inspect.signature(builder).parameters
        for dims, batch in BATCHES.items() if "dims" in known else [(0, (64, ()))]:
            channels = OTHER_CHANNELS.get((name, dims), CHANNELS.get(dims))
            options = {k: v for k, v in {"dims": dims, "channels": channels}.items() if k in known}
            for use, recipe in used(Part(name, options)):
                found[f"{name}{use} {f'{dims}D' if dims else ''}".strip()] = Net(recipe, *batch)
    return found


def used(model: Part) -> Iterator[tuple[str, Recipe]]:
    """Yield what the model is measured at, as a recipe."""
    for uses in USES:
        for use, modalities, heads in uses:
            recipe = Recipe("cost", modalities, heads, Part("none"), model)
            with suppress(RecipeError):
                build_model(recipe)
                yield use, recipe
                break


def model_of(net: Net) -> MultiModal:
    """Build the network, in training mode."""
    torch.manual_seed(0)
    return build_model(net.recipe).train()


def batch_of(net: Net) -> Batch:
    """Make complete random cases."""
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(
            net.rows, *((1, *net.shape) if m.kind == "image" else (m.features,)), generator=generator
        )
        for name, m in net.recipe.modalities.items()
    }
    first = next(iter(inputs.values()))
    truths = {
        "segmentation": (first > 0).float(),
        "classification": torch.arange(net.rows) % 2,
        "pretext": torch.empty(net.rows, 0),
    }
    targets = {name: truths[head.kind] for name, head in net.recipe.heads.items()}
    everybody = torch.ones(net.rows, dtype=torch.bool)
    present = everybody[:, None].repeat(1, len(inputs))
    return Batch(inputs, present, targets, dict.fromkeys(targets, everybody), torch.arange(net.rows))


def told(model: MultiModal, batch: Batch) -> Batch:
    """Return the batch with what a teacher says of it, where the model has one: here the model itself."""
    with torch.no_grad():
        return replace(batch, targets={**batch.targets, **model.tell(batch)})


def step_of(net: Net, mode: str) -> Callable[[], None]:
    """Return one step's work; mode "" is the floor. Raises PrivacyError where the mode cannot."""
    model, objectives = model_of(net), build_objectives(net.recipe)
    batch = told(model, batch_of(net))

    def losses(outputs: dict[str, Tensor], cases: Batch) -> Tensor:
        return case_losses(outputs, cases, net.recipe.heads, objectives)

    def floor() -> None:
        model.zero_grad(set_to_none=False)
        losses(model(batch), batch).mean().backward()

    if not mode:
        return floor
    gradient = PrivateGradient(model, model.parameters(), 1.0, 1.0, net.rows, SecureGenerator(), mode)
    return lambda: gradient(batch, losses)


def seconds(net: Net) -> dict[str, float]:
    """Return each contender's least CPU seconds a step, the floor's under ""."""
    steps: dict[str, Callable[[], None]] = {}
    for mode in ("", *MODES):
        with suppress(PrivacyError, RuntimeError):
            step = step_of(net, mode)
            step()
            steps[mode] = step
    least = dict.fromkeys(steps, float("inf"))
    for _ in range(TURNS):
        for mode, step in steps.items():
            start = time.process_time()
            step()
            least[mode] = min(least[mode], time.process_time() - start)
    return least


def peak(name: str, mode: str) -> float:
    """Return the bytes that a step adds at its highest, after one to warm up."""
    torch.set_num_threads(1)
    step = step_of(nets()[name], mode)
    step()
    return float(peak_of(step))


def compare(name: str, net: Net) -> str:
    """Return a row: the floor's milliseconds and mebibytes, each mode's ratios of both."""
    least = seconds(net)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.memory", "models.catalogue", "privacy.dpsgd"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        peaks = {mode: pool.apply(peak, (name, mode)) for mode in least}
    floor_s, floor_bytes = least.pop(""), max(peaks.pop(""), 2**20)
    cells = [f"{floor_s * 1e3:.1f} ms, {floor_bytes / 2**20:.0f} MiB"]
    cells += [
        f"{least[mode] / floor_s:.2f} / {peaks[mode] / floor_bytes:.2f}" if mode in least else "-"
        for mode in MODES
    ]
    return f"| {' | '.join([name, *cells])} |"


def main(names: list[str]) -> None:
    """Print a table, one row a network, each as it is measured."""
    torch.set_num_threads(1)
    print(f"CPU time / memory as ratios to the floor; one thread, torch {torch.__version__}\n")
    print(f"| network | floor | {' | '.join(MODES)} |\n|---{'|---' * len(MODES)}|---|")
    for name, net in nets().items():
        if not names or name.startswith(tuple(names)):
            print(compare(name, net), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a private step costs beside an ordinary one, for every network and every way to have row gradients.

    python -m bench.privacy_cost [NAME ...]

The floor is the same network, loss and batch with autograd's own gradient. A private step is the
whole of `PrivateGradient`: rows' gradients, bounds, sum and noise. Times are CPU seconds on one
thread, the least of several turns, all contenders taking turns; memory is what a step adds to the
process at its highest, each contender in a process of its own. Both are given as ratios.

`SegResNet` is MONAI's, from outside the catalogue, with two lines changed: nothing in place, and
`x = x + identity` for `x += identity`, which no hook survives.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from monai.networks.blocks.segresnet_block import ResBlock
from monai.networks.nets.segresnet import SegResNet
from torch import Tensor, nn

from bench.memory import peak_of
from models.catalogue import build_model, build_objectives
from models.objectives import case_losses
from privacy.dpsgd import PrivateGradient
from privacy.noise import SecureGenerator
from protocol.batch import Batch
from protocol.errors import PrivacyError
from protocol.recipe import Head, Modality, Part, Recipe

MODES = ("auto", "hooks", "functorch", "ew")
TURNS = 3
IMAGES = {name: Modality() for name in ("flair", "t1", "t1c", "t2")}
TABLE = {"table": Modality("table", 39)}
TUMOUR = {"y": Head("segmentation", 1, Part("dice_ce"))}
GRADE = {"y": Head("classification", 1, Part("bce"))}
SLICES, VOLUMES = (16, (64, 64)), (4, (32, 32, 32))


@dataclass(frozen=True)
class Net:
    """A network of the catalogue and its batch: rows and an image's shape."""

    recipe: Recipe
    rows: int
    shape: tuple[int, ...]


def nets() -> dict[str, Net]:
    """Return every network of the catalogue by name and dimensions, of a size that people use."""

    def of(model: str, heads: dict[str, Head], batch: tuple[int, tuple[int, ...]], **options: object) -> Net:
        part = Part(model, {"dims": len(batch[1])} | options)
        return Net(Recipe("cost", IMAGES, heads, Part("none"), part), *batch)

    found = {
        f"{model} {dims}D": of(model, TUMOUR, batch, channels=channels)
        for model in ("early_fusion_unet", "encoders_unet", "parallel_unet")
        for dims, batch, channels in ((2, SLICES, (16, 32, 64, 128)), (3, VOLUMES, (8, 16, 32, 64)))
    }
    found["volume_classifier 3D"] = of("volume_classifier", GRADE, VOLUMES)
    for model in ("table_linear", "table_mlp"):
        found[model] = Net(Recipe("cost", TABLE, GRADE, Part("none"), Part(model)), 64, ())
    found["SegResNet 3D"] = Net(
        Recipe("cost", {"flair": Modality()}, TUMOUR, Part("none"), Part("-")), *VOLUMES
    )
    return found


class Wrapped(nn.Module):
    """MONAI's SegResNet behind the catalogue's interface."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SegResNet(3, init_filters=16, out_channels=1, act=("RELU", {"inplace": False}))
        for block in self.net.modules():
            if isinstance(block, ResBlock):
                block.forward = _residual(block)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return head -> logits of the one modality."""
        return {"y": self.net(batch.inputs["flair"])}


def _residual(block: ResBlock) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        here = block.conv1(block.act(block.norm1(x)))
        return block.conv2(block.act(block.norm2(here))) + x

    return forward


def model_of(net: Net) -> nn.Module:
    """Build the network, in training mode."""
    torch.manual_seed(0)
    return (Wrapped() if net.recipe.model.name == "-" else build_model(net.recipe)).train()


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
    target = (
        (first > 0).float() if net.recipe.heads["y"].kind == "segmentation" else torch.arange(net.rows) % 2
    )
    present = torch.ones(net.rows, len(inputs), dtype=torch.bool)
    return Batch(inputs, present, {"y": target}, {"y": torch.ones(net.rows, dtype=torch.bool)})


def step_of(net: Net, mode: str) -> Callable[[], None]:
    """Return one step's work; mode "" is the floor. Raises PrivacyError where the mode cannot."""
    model, batch, objectives = model_of(net), batch_of(net), build_objectives(net.recipe)

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
    """Return a line: the floor's milliseconds and mebibytes, each mode's ratios of both."""
    least = seconds(net)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {mode: pool.apply(peak, (name, mode)) for mode in least}
    floor_s, floor_bytes = least.pop(""), max(peaks.pop(""), 2**20)
    told = "".join(
        f"   {mode} {least[mode] / floor_s:5.2f} {peaks[mode] / floor_bytes:5.2f}"
        if mode in least
        else f"   {mode}   -     -  "
        for mode in MODES
    )
    return f"{name:22} floor {floor_s * 1e3:8.1f} ms {floor_bytes / 2**20:7.1f} MiB{told}"


def main(names: list[str]) -> None:
    """Print one line a network."""
    torch.set_num_threads(1)
    print(f"one thread, torch {torch.__version__}; per mode: CPU time and memory as a ratio to the floor")
    for name, net in nets().items():
        if not names or name.startswith(tuple(names)):
            print(compare(name, net), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""One private gradient: every row bounded, all rows summed, noise on the sum.

    Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang: Deep Learning with Differential
    Privacy. CCS 2016.

    g_i  gradient of row i's own loss, over all parameters as one vector
    c_i  g_i * min(1, clip_norm / |g_i|); 0 if any entry of g_i is not a finite number
    out  (sum_i c_i + Normal(0, noise_multiplier * clip_norm)) / expected_batch

One row is one patient. Removing a row moves the sum by at most `clip_norm`, which is all that
accounting assumes; so what could break it is refused, not trusted:

    a row's place      every layer must see as many rows as the batch has: modalities or crops
                       folded into the batch would give one patient several bounded parts
    a row's loss       must not read another row's output (a batch-wise Dice, a weighted mean)
    a row's gradient   the rows must add up to autograd's own gradient
    layers' memory     buffers and batch normalisation mix rows

The noise goes to every trainable parameter, also to those that no row used, and to all of
them when the Poisson draw is empty: which patients were drawn must not show. It is added in
float64, and the sum is rounded to a grid fixed beforehand: the low bits of a rounded sum
tell its addends apart (Mironov: On Significance of the Least Significant Bits for
Differential Privacy. CCS 2012); a grid point has at least 2^30 ways to come about.

A row may also be bounded block by block, each block of parameters by itself (McMahan, Andrew,
Erlingsson, Chien, Mironov, Papernot, Kairouz: A General Approach to Adding Differential Privacy
to Iterative Training Procedures. 2018, arXiv 1812.06210). Block b of d_b parameters may move by

    clip_norm_b = clip_norm * sqrt(share_b)        share_b = sqrt(d_b) / sum of all sqrt(d)

so that a whole row still moves the sum by at most `clip_norm`, and noise and accounting stay as
they are. A block that many rows lack (the encoder of a rare modality) then no longer competes
with the shared parameters for its rows' norm. These shares minimise the sum over blocks of
noise^2 / signal^2, which is d_b / share_b up to a factor, and follow from the model alone: shares
that knew how many patients use a block would tell it.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import torch
from opacus.grad_sample import GradSampleHooks  # pyright: ignore[reportMissingTypeStubs]
from opacus.grad_sample.conv import compute_conv_grad_sample  # pyright: ignore[reportMissingTypeStubs]
from opacus.validators import ModuleValidator  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

from privacy.noise import on_grid
from protocol.batch import Batch
from protocol.errors import PrivacyError

Losses = Callable[[dict[str, Tensor], Batch], Tensor]
"""Outputs by head and their batch -> `(B,)`, each case's own loss."""


class Noise(Protocol):
    """Where noise comes from: `SecureGenerator`, or `ftrl.CorrelatedNoise` over one."""

    def normal_(self, tensor: Tensor, std: float) -> Tensor:
        """Fill a tensor with the next Gaussians of mean 0."""
        ...


_SHORT = 1 << 16
"""Elements whose squares float32 adds without losing the sixth digit."""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_EXPANDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm)


class PrivateGradient:
    """Leaves a private gradient in `p.grad` of every trainable parameter, step after step.

    Wraps a model for as long as it is open; `close` leaves the model as it was.

    How the rows' gradients are had (`mode`); they agree to rounding:

        auto       Opacus' hooks; convolutions of any kind by one grouped convolution
        hooks      Opacus' hooks as they come: convolutions unfolded into matrices
        functorch  every layer run again under `torch.func.vmap`
        ew         PyTorch's ExpandedWeights; convolutions, linear and normalising layers only
    """

    def __init__(  # noqa: PLR0917 - in the order of the formula
        self,
        model: nn.Module,
        parameters: Iterable[nn.Parameter],
        clip_norm: float,
        noise_multiplier: float,
        expected_batch: float,
        generator: Noise,
        mode: str = "auto",
        *,
        blocks: Sequence[Sequence[nn.Parameter]] = (),
    ) -> None:
        """Attach to `model`; `parameters` must hold all that are trainable.

        `blocks` share them out: each is bounded by itself. By default all are one block.

        Raises:
            PrivacyError: where the influence of one row cannot be bounded.
        """
        if not (0 < clip_norm < math.inf and 0 <= noise_multiplier < math.inf and expected_batch > 0):
            raise PrivacyError("clip_norm and expected batch must be > 0, noise_multiplier >= 0, all finite")
        self._model = model
        self._parameters = [p for p in parameters if p.requires_grad]
        _require_boundable(model, self._parameters, mode)
        self._blocks = _bounds(self._parameters, blocks or [self._parameters], clip_norm)
        self._noise_stddev = noise_multiplier * clip_norm
        self._expected_batch = expected_batch
        self._generator = generator
        self._names = {p: name for name, p in model.named_parameters()}
        self._unproven = set(self._parameters)
        self._uncoupled = False
        self._open = True
        # Before Opacus' hooks, which must find every weight in view.
        self._sparing = _Sparing(model, self._parameters, self._unproven) if mode == "auto" else None
        self._hooks = _HOOKS[mode](model)

    def __call__(self, batch: Batch | None, losses: Losses) -> None:
        """Write the gradient of one step; `None` is the empty draw, whose step is noise alone."""
        if not self._open:
            raise PrivacyError("this private gradient is closed: without its hooks no row can be bounded")
        for parameter in self._parameters:
            parameter.grad = _gradient(parameter)
        rows = self._rows(batch, losses) if batch is not None and len(batch) else []
        factors = self._factors(rows)
        for place, parameter in enumerate(self._parameters):
            total = self._generator.normal_(
                torch.empty(parameter.numel(), dtype=torch.float64), self._noise_stddev
            )
            total = total.to(parameter.device)
            if rows and (own := rows[place]) is not None:
                total += factors[place].to(own) @ own
            gradient = on_grid(total, self._noise_stddev) / self._expected_batch
            _gradient(parameter).copy_(gradient.view_as(parameter))

    def close(self) -> None:
        """Detach from the model, which then trains as any other."""
        if self._open and self._hooks is not None:
            self._hooks.cleanup()
        if self._open and self._sparing is not None:
            self._sparing.remove()
        self._forget()
        for parameter in self._parameters:
            vars(parameter).pop("grad_sample", None)
            vars(parameter).pop("_forward_counter", None)
        self._open = False

    # -- Each row's gradient ------------------------------------------------------------------
    def _rows(self, batch: Batch, losses: Losses) -> list[Tensor | None]:
        """Return `(B, numel)` for each parameter, None where no row used it."""
        # Autograd's own gradient goes elsewhere: p.grad is a view that others hold.
        places = [_gradient(parameter) for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        try:
            return self._differentiated(batch, losses)
        finally:
            for parameter, place in zip(self._parameters, places, strict=True):
                parameter.grad = place
            if self._sparing is not None:
                self._sparing.restore()
            self._forget()

    def _differentiated(self, batch: Batch, losses: Losses) -> list[Tensor | None]:
        if not self._model.training:
            raise PrivacyError(
                "the model is in evaluation mode, where no row's gradient is kept: call train()"
            )
        outputs = self._forward(batch)
        calls = self._require_aligned(max(len(batch), 2))
        slopes = self._slopes(outputs, batch, losses)
        _backward([output for output, _ in slopes], [slope for _, slope in slopes])
        for module, count in calls.items():
            if 0 < len(_activations(module)) < count:
                raise PrivacyError(
                    f"{type(module).__name__} ran {count} times, but not every result reached the loss: "
                    "its rows cannot be told apart; mask results with torch.where instead of dropping them"
                )
        rows = [self._row_gradients(p, len(batch)) for p in self._parameters]
        self._require_complete(rows)
        return rows

    def _slopes(
        self, outputs: dict[str, Tensor], batch: Batch, losses: Losses
    ) -> list[tuple[Tensor, Tensor]]:
        """Return each output that trains something and the sum of the losses' gradient by it."""
        apart = {
            head: output.detach().requires_grad_(output.requires_grad) for head, output in outputs.items()
        }
        values = losses(apart, batch)
        if values.shape != (len(batch),):
            raise PrivacyError(
                f"the loss has shape {tuple(values.shape)} for {len(batch)} cases: "
                "give each case its own loss, averaged over nothing but itself"
            )
        if not values.requires_grad:
            return []
        wanted = [head for head, output in outputs.items() if output.requires_grad]
        leaves = [apart[head] for head in wanted]
        if not self._uncoupled:
            self._uncoupled = _uncoupled(values, leaves)
        slopes = torch.autograd.grad(values.sum(), leaves, allow_unused=True, materialize_grads=True)
        return [(outputs[head], slope) for head, slope in zip(wanted, slopes, strict=True)]

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        # GroupNorm refuses one row with one voxel; the twin's outputs reach no loss.
        pair = batch.map(lambda x: x.repeat_interleave(2, 0)) if len(batch) == 1 else batch
        outputs: dict[str, Tensor] = (
            _expanded(self._model, pair) if self._hooks is None else self._model(pair)
        )
        return outputs if pair is batch else {head: output[:1] for head, output in outputs.items()}

    def _row_gradients(self, parameter: nn.Parameter, cases: int) -> Tensor | None:
        # A parameter shared by two modules of which only one ran keeps its rows in the making.
        state = vars(parameter)
        finished: Tensor | None = state.get("grad_sample")
        rows: Tensor | None = state.get("_current_grad_sample") if finished is None else finished
        return None if rows is None else rows[:cases].reshape(cases, -1)

    def _forget(self) -> None:
        """Drop what one step leaves behind, above all from layers whose result nothing used."""
        for parameter in self._parameters:
            parameter.grad_sample = None  # pyright: ignore[reportAttributeAccessIssue]
            parameter._forward_counter = 0  # noqa: SLF001 # pyright: ignore[reportAttributeAccessIssue]
            vars(parameter).pop("_current_grad_sample", None)
        for module in self._model.modules():
            vars(module).pop("activations", None)
            vars(module).pop("max_batch_len", None)

    # -- Bounding ---------------------------------------------------------------------------
    def _factors(self, rows: list[Tensor | None]) -> dict[int, Tensor]:
        """Return each used parameter's `(B,)` factors; zero rows that are not finite, in place."""
        squares = {place: _squares(own) for place, own in enumerate(rows) if own is not None}
        if not squares:
            return {}
        finite = torch.stack(list(squares.values())).sum(0).isfinite()
        if not finite.all():
            for place in squares:
                rows[place][~finite] = 0  # pyright: ignore[reportOptionalSubscript]
        factors: dict[int, Tensor] = {}
        for places, bound in self._blocks:
            used = [place for place in places if place in squares]
            if used:
                norms = torch.stack([squares[place] for place in used]).sum(0).sqrt()
                factors |= dict.fromkeys(used, torch.where(finite, (bound / norms).clamp(max=1), 0))
        return factors

    # -- Refusals ---------------------------------------------------------------------------
    def _require_aligned(self, cases: int) -> dict[nn.Module, int]:
        """Refuse a layer that saw other rows than the batch's; return each layer's calls."""
        calls = {module: len(_activations(module)) for module in self._model.modules()}
        for module in calls:
            for seen in _activations(module):
                if seen[0].shape[0] != cases:
                    raise PrivacyError(
                        f"{type(module).__name__} saw {seen[0].shape[0]} rows of a batch of {cases}: "
                        "give every layer one row a patient; never fold modalities or crops into the batch"
                    )
        return calls

    def _require_complete(self, rows: list[Tensor | None]) -> None:
        """Refuse rows that do not add up to autograd's gradient; once for each parameter."""
        if self._hooks is None:  # ExpandedWeights refuses what it does not know, and leaves no sum
            return
        sums = {
            p: (p.grad.flatten(), own)
            for p, own in zip(self._parameters, rows, strict=True)
            if p.grad is not None
        }
        rounding = 1e-4 * math.sqrt(sum(float(whole.norm()) ** 2 for whole, _ in sums.values()))
        for parameter, (whole, found) in sums.items():
            if parameter not in self._unproven:
                continue
            own = torch.zeros_like(whole)[None] if found is None else found
            tolerance = 1e-3 * float(own.norm(dim=1).sum() + whole.norm())
            if float((own.sum(0) - whole).norm()) > tolerance + rounding:
                raise PrivacyError(
                    f"parameter '{self._names[parameter]}': rows' gradients do not add up to the batch's: "
                    "use it in its layer's ordinary forward, called with one tensor"
                )
            if tolerance > 0.1 * rounding:
                self._unproven.discard(parameter)


class _Sparing:
    """Spares autograd the sum over rows of a convolution weight's gradient, once it has been checked.

    The rows' gradients are computed apart from it, and a third of an ordinary step goes into sums
    that nobody would read. While a layer runs, its weight hides from autograd; the layer's output
    still asks for a gradient, from which the rows' gradients follow.
    """

    def __init__(
        self, model: nn.Module, parameters: Iterable[nn.Parameter], unproven: set[nn.Parameter]
    ) -> None:
        self._trained, self._unproven = frozenset(parameters), unproven
        self._hidden: list[nn.Parameter] = []
        layers = [module for module in model.modules() if isinstance(module, _CONVOLUTIONS)]
        self._handles = [layer.register_forward_pre_hook(self._hide) for layer in layers]
        self._handles += [layer.register_forward_hook(self._show) for layer in layers]

    def restore(self) -> None:
        """Bring back what a forward pass that failed left hidden."""
        while self._hidden:
            self._hidden.pop().requires_grad_(True)

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _hide(self, layer: nn.Module, inputs: object) -> None:
        del inputs
        weight = layer.weight
        if isinstance(weight, nn.Parameter) and weight in self._trained and weight not in self._unproven:
            weight.requires_grad_(False)
            self._hidden.append(weight)

    def _show(self, layer: nn.Module, inputs: object, output: Tensor) -> None:
        del layer, inputs
        if self._hidden:
            self.restore()
            if torch.is_grad_enabled() and not output.requires_grad:  # of data, by a layer without a bias
                output.requires_grad_(True)


class _GroupedHooks(GradSampleHooks):
    """Opacus' hooks, with convolutions of any kind by one grouped convolution."""


def _volume_rows(layer: nn.Conv3d, x: Tensor, backprops: Tensor) -> Tensor:
    """Return `(B, O, I, *kernel)`: each row's output gradient `(B, O, *sp)` is a kernel over its input."""
    rows, outputs = backprops.shape[:2]
    kernels = backprops.reshape(rows * outputs, 1, *backprops.shape[2:])
    found = functional.conv3d(
        x.transpose(0, 1), kernels, None, layer.dilation, layer.padding, layer.stride, rows
    )
    for axis, size in enumerate(layer.kernel_size, 2):  # a stride that does not divide leaves a rim
        found = found.narrow(axis, 0, size)
    return found.reshape(len(found), rows, outputs, *layer.kernel_size).movedim(0, 2)


def _convolution_rows(layer: Any, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Each row's gradient of a convolution `(B, O, *sp)`, by what measured fastest (`bench.privacy_cost`).

    Rows become groups of one big convolution: of its backward pass, which costs what the batch's own
    gradient costs, or in volumes, where that kind is slow on a CPU, of its forward pass with the
    output gradients as kernels.
    """
    if isinstance(layer.padding, str):
        return compute_conv_grad_sample(layer, activations, backprops)
    x, weight, rows = activations[0], layer.weight, len(backprops)
    found: dict[nn.Parameter, Tensor] = {}
    volumes = issubclass(type(layer), nn.Conv3d) and x.device.type == "cpu"
    if weight.requires_grad and volumes and layer.groups == 1:
        found[weight] = _volume_rows(layer, x, backprops)
    elif weight.requires_grad:
        gradient = torch.ops.aten.convolution_backward(
            backprops.reshape(1, -1, *backprops.shape[2:]),
            x.reshape(1, -1, *x.shape[2:]),
            weight.detach().repeat(rows, *[1] * (weight.ndim - 1)),
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.transposed,
            layer.output_padding,
            rows * layer.groups,
            (False, True, False),
        )[1]
        found[weight] = gradient.view(rows, *weight.shape)
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = backprops.flatten(2).sum(2)
    return found


_GroupedHooks.GRAD_SAMPLERS = GradSampleHooks.GRAD_SAMPLERS | dict.fromkeys(_CONVOLUTIONS, _convolution_rows)

_HOOKS: Mapping[str, Callable[[nn.Module], GradSampleHooks | None]] = {
    "auto": lambda model: _GroupedHooks(model, loss_reduction="sum"),
    "hooks": lambda model: GradSampleHooks(model, loss_reduction="sum"),
    "functorch": lambda model: GradSampleHooks(model, loss_reduction="sum", force_functorch=True),
    "ew": lambda _: None,
}


def shares(sizes: Sequence[int]) -> list[float]:
    """Share the squared clip norm out over blocks of so many parameters; the shares add up to 1."""
    roots = [math.sqrt(size) for size in sizes]
    return [root / sum(roots) for root in roots]


def _bounds(
    parameters: list[nn.Parameter], blocks: Sequence[Sequence[nn.Parameter]], clip_norm: float
) -> list[tuple[list[int], float]]:
    """Return each block's places in `parameters` and its clip norm."""
    place = {parameter: index for index, parameter in enumerate(parameters)}
    places = [[place[p] for p in block if p in place] for block in blocks]
    if sorted(chain(*places)) != list(range(len(parameters))):
        raise PrivacyError("every trainable parameter must be in one block, and in one only")
    sizes = [sum(parameters[index].numel() for index in block) for block in places]
    return [(block, clip_norm * math.sqrt(share)) for block, share in zip(places, shares(sizes), strict=True)]


def _require_boundable(model: nn.Module, parameters: list[nn.Parameter], mode: str) -> None:
    if mode not in _HOOKS:
        raise PrivacyError(f"privacy.mode: {mode!r} is not one of {', '.join(_HOOKS)}")
    for problem in _problems(model, mode):
        raise PrivacyError(problem)
    given = set(parameters)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in given:
            raise PrivacyError(
                f"parameter '{name}' is trainable but not given: it would train without privacy"
            )


def _problems(model: nn.Module, mode: str) -> Iterator[str]:
    for name, _ in model.named_buffers():
        yield f"'{name}' is a buffer, which may remember patients outside the guarantee: keep no state"
    for name, module in model.named_modules():
        own = any(p.requires_grad for p in module.parameters(recurse=False))
        if isinstance(module, _BatchNorm):
            yield f"'{name}' normalises over the batch, which mixes patients: use GroupNorm"
        elif own and _refused_by_opacus(module):
            yield f"'{name}' ({type(module).__name__}) cannot be bounded per patient: use Opacus' variant"
        elif own and module is model:
            yield "a parameter belongs to the model itself: give it a module, called with one row a case"
        elif own and mode == "ew" and not isinstance(module, _EXPANDABLE):
            yield f"privacy.mode ew: '{name}' ({type(module).__name__}) is not supported; use auto"


def _expanded(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    try:
        return call_for_per_sample_grads(model, batch_size=len(batch), loss_reduction="sum")(batch)
    except RuntimeError as error:
        if "Expanded" not in str(error):
            raise
        raise PrivacyError(f"privacy.mode ew cannot bound each row ({error}): use auto") from error


def _uncoupled(values: Tensor, outputs: list[Tensor]) -> bool:
    """Refuse losses of the first rows that read the other rows' outputs; False if that shows nothing."""
    half = len(values) // 2
    slopes = torch.autograd.grad(
        values[:half].sum(), outputs, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    slopes = [slope.nan_to_num(0, 0, 0) for slope in slopes]  # a broken record's own affair
    if any(slope[half:].any() for slope in slopes):
        raise PrivacyError(
            "a case's loss depends on other cases of the batch: use an objective coupled by case"
        )
    return any(bool(slope[:half].any()) for slope in slopes)


def _backward(outputs: list[Tensor], slopes: list[Tensor]) -> None:
    with warnings.catch_warnings():
        # Of every first layer: its input is data, which needs no gradient.
        warnings.filterwarnings(
            "ignore", "Full backward hook is firing when gradients are computed", UserWarning
        )
        torch.autograd.backward(outputs, slopes)


def _refused_by_opacus(module: nn.Module) -> bool:
    validate = ModuleValidator.VALIDATORS.get(type(module))
    return validate is not None and bool(validate(module))


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _activations(module: nn.Module) -> list[list[Tensor]]:
    return vars(module).get("activations", [])


def _squares(rows: Tensor) -> Tensor:
    """Return each row's squared norm, `(B, n)` -> float64 `(B,)`."""
    parts = [part.norm(dim=1).double().square() for part in rows.split(_SHORT, 1)]
    return torch.stack(parts).sum(0)

"""One private gradient: right against a loop over rows, noisy as said, and never quietly wrong."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from privacy import dpsgd
from privacy.dpsgd import Losses, PrivateGradient, shares
from privacy.noise import SecureGenerator
from protocol.batch import Batch
from protocol.errors import PrivacyError
from tests.privacy.neighbours import CLIP_NORM, blocks_of, plain_loop, released
from tests.privacy.networks import CONVOLUTION, Everything, Plain, built, cases, losses

MODES = ("auto", "hooks", "functorch", "ew")


def opened(model: nn.Module, **changes: object) -> PrivateGradient:
    """A noiseless gradient of everything trainable."""
    options = {
        "clip_norm": CLIP_NORM,
        "noise_multiplier": 0.0,
        "expected_batch": 1.0,
        "mode": "auto",
    } | changes
    return PrivateGradient(model, model.parameters(), generator=SecureGenerator(), **options)


def gradient_of(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]).double()


def same(first: Tensor, second: Tensor) -> bool:
    return float((first - second).norm()) <= 1e-5 * float(second.norm())


# -- Against one row at a time ---------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_are_bounded_as_one_at_a_time(mode: str, dims: int, rows: int) -> None:
    """Shared weights used four times, strides, groups, transposes, a table, two heads."""
    model = built(lambda: Everything(dims, transposed=mode != "ew"))
    batch = cases(rows, dims, size=4)
    assert same(released(model, batch, losses, mode), plain_loop(model, batch, losses))


@pytest.mark.parametrize("mode", ["auto", "functorch"])
@pytest.mark.parametrize("hidden", [["a"], ["table"], ["a", "table"]])
def test_a_modality_that_no_row_has_contributes_nothing(mode: str, hidden: list[str]) -> None:
    model, batch = built(Everything), cases(4)
    for name in hidden:
        batch.present[:, model.modalities.index(name)] = False
    assert same(released(model, batch, losses, mode), plain_loop(model, batch, losses))


def test_a_modality_that_some_rows_lack_is_theirs_to_lack() -> None:
    model, batch = built(Everything), cases(4)
    batch.present[:2, 0] = False
    batch.present[1:, 2] = False
    batch.inputs["a"][:2] = torch.nan
    assert same(released(model, batch, losses), plain_loop(model, batch, losses))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_convolution_may_name_its_padding(padding: str) -> None:
    model = built(Plain)
    model.convolution = nn.Conv2d(1, 4, 3, padding=padding)
    assert same(released(model, cases(3), losses), plain_loop(model, cases(3), losses))


def test_parts_of_a_layer_may_be_frozen() -> None:
    model = built(Plain)
    model.convolution.weight.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    assert same(released(model, cases(3), losses), plain_loop(model, cases(3), losses))
    model.convolution.weight.requires_grad_(True)
    model.convolution.bias.requires_grad_(False)
    model.convolution.bias.grad = None
    assert same(released(model, cases(3), losses), plain_loop(model, cases(3), losses))
    assert model.convolution.bias.grad is None


def test_a_module_under_two_names_counts_its_rows_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
            self.second.weight = self.first.weight
            self.head = nn.Linear(5, 3)

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            hidden = torch.tanh(self.first(batch.inputs["table"]))
            self.unused = self.second(hidden)  # of the tied weight, one use reaches no loss
            return {"grade": self.head(hidden)}

    model = built(Tied)
    assert same(released(model, cases(3), losses), plain_loop(model, cases(3), losses))


# -- Group by group --------------------------------------------------------------------------
def plain_blocks(model: nn.Module, batch: Batch) -> Tensor:
    """The same, one row and one block at a time."""
    total = []
    blocks = blocks_of(model)
    roots = [sum(p.numel() for p in block) ** 0.5 for block in blocks]
    for block, root in zip(blocks, roots, strict=True):
        bound, whole = CLIP_NORM * (root / sum(roots)) ** 0.5, torch.zeros(())
        for row in range(len(batch)):
            one = batch.map(lambda x, row=row: x[row : row + 1])
            found = torch.autograd.grad(
                losses(model(one), one).sum(), block, allow_unused=True, materialize_grads=True
            )
            own = torch.cat([g.flatten() for g in found]).double()
            whole = whole + own * min(1.0, bound / max(float(own.norm()), 1e-30))
        total.append(whole)
    return torch.cat(total)


def test_blocks_are_bounded_one_at_a_time() -> None:
    model, batch = built(Everything), cases(4)
    batch.present[:2, 0] = False
    parameters = [p for block in blocks_of(model) for p in block]
    with closing(
        PrivateGradient(model, parameters, CLIP_NORM, 0.0, 1.0, SecureGenerator(), blocks=blocks_of(model))
    ) as gradient:
        gradient(batch, losses)
    found = torch.cat([p.grad.flatten() for p in parameters]).double()
    assert same(found, plain_blocks(model, batch))


def test_shares_add_up_to_one_and_favour_small_blocks() -> None:
    few, many = shares([100, 10_000])
    assert few + many == pytest.approx(1)
    assert 100 / 10_100 < few < 0.5


def test_a_broken_record_is_left_out_of_every_block() -> None:
    model, batch = built(Everything), cases(3)
    batch.inputs["a"][1] = torch.nan
    kept = batch.map(lambda x: x[[0, 2]])
    assert same(released(model, batch, losses, per_group=True), released(model, kept, losses, per_group=True))


@pytest.mark.parametrize("change", [lambda blocks: blocks[1:], lambda blocks: [*blocks, blocks[0]]])
def test_blocks_that_leave_out_or_repeat_a_parameter_are_refused(change) -> None:  # noqa: ANN001
    model = built(Plain)
    with pytest.raises(PrivacyError, match="in one block, and in one only"):
        opened(model, blocks=change(blocks_of(model)))


# -- Where it is written ---------------------------------------------------------------------
def test_gradients_stay_views_of_the_vector_that_holds_them() -> None:
    model, batch = built(Plain), cases(3)
    expected = plain_loop(model, batch, losses)
    vector = torch.full_like(expected, 5, dtype=torch.float32)
    views = list(_views(model, vector))
    for parameter, view in zip(model.parameters(), views, strict=True):
        parameter.grad = view
    with closing(opened(model, expected_batch=2.0)) as gradient:
        for _ in range(2):
            gradient(batch, losses)
            assert same(vector.double(), expected / 2)
    assert all(p.grad is view for p, view in zip(model.parameters(), views, strict=True))


class ByDrawn(PrivateGradient):
    """Divides by the rows that were drawn, whose number is a patient's secret."""

    def __call__(self, batch: Batch | None, losses: Losses) -> None:
        self._expected_batch = float(len(batch)) if batch is not None else 1.0
        super().__call__(batch, losses)


def the_denominator_is_of_the_cohort(kind: type[PrivateGradient]) -> bool:
    """Whether twice the same row, in a draw that expects three, is twice as much as once."""
    model, batch = built(Plain), cases(1)
    found: list[Tensor] = []
    for drawn in (batch, batch.map(lambda x: x.repeat_interleave(2, 0))):
        with closing(kind(model, model.parameters(), CLIP_NORM, 0.0, 3.0, SecureGenerator())) as gradient:
            gradient(drawn, losses)
        found.append(gradient_of(model))
    return same(found[1], 2 * found[0]) and same(3 * found[0], plain_loop(model, batch, losses))


def test_what_divides_a_sum_follows_from_the_cohort_and_not_from_who_was_drawn() -> None:
    assert the_denominator_is_of_the_cohort(PrivateGradient)


def test_a_mean_over_who_was_drawn_is_caught() -> None:
    assert not the_denominator_is_of_the_cohort(ByDrawn)


def _views(model: nn.Module, vector: Tensor) -> Iterator[Tensor]:
    offset = 0
    for parameter in model.parameters():
        yield vector[offset : offset + parameter.numel()].view(parameter.shape)
        offset += parameter.numel()


def test_closing_leaves_the_model_as_it_was() -> None:
    model, batch = built(Everything), cases(3)
    before = _traces(model)
    for mode in ("auto", "functorch", "hooks"):
        gradient = opened(model, mode=mode)
        gradient(batch, losses)
        gradient.close()
        gradient.close()
        assert _traces(model) == before
    with pytest.raises(PrivacyError, match="closed"):
        gradient(batch, losses)
    model.zero_grad(set_to_none=True)
    losses(model(batch), batch).sum().backward()
    expected = torch.autograd.grad(losses(model(batch), batch).sum(), list(model.parameters()))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))


def _traces(model: nn.Module) -> list[object]:
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()]
    return [hooks, [sorted(vars(m)) for m in model.modules()], [sorted(vars(p)) for p in model.parameters()]]


def test_a_step_that_fails_leaves_no_trace_in_the_next() -> None:
    model, batch = built(Everything), cases(3)
    expected = plain_loop(model, batch, losses)

    def failing(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        raise ZeroDivisionError

    with closing(opened(model)) as gradient:
        with pytest.raises(ZeroDivisionError):
            gradient(batch, failing)
        assert all((p.grad == 0).all() for p in model.parameters())
        gradient(batch, losses)
        assert same(gradient_of(model), expected)


# -- Odd batches (D7) --------------------------------------------------------------------------
@pytest.mark.parametrize("empty", [None, cases(0)])
def test_an_empty_draw_is_a_step_of_noise_alone(empty: Batch | None) -> None:
    model = built(Everything)
    with closing(opened(model, noise_multiplier=2.0)) as gradient:
        gradient(empty, losses)
    assert float(gradient_of(model).std()) == pytest.approx(2.0 * CLIP_NORM, rel=0.2)


def test_one_row_with_one_voxel_a_group_works() -> None:
    model = built(Plain)
    model.norm = nn.GroupNorm(4, 4)
    for rows in (1, 2):
        batch = cases(rows, size=1)
        release = released(model, batch, losses)
        assert release.isfinite().all()
        assert float(release.norm()) > 0


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_a_broken_record_is_left_out_whole(rows: int, bad: float) -> None:
    """Also where only its image is broken: its table's gradient goes too."""
    model, batch = built(Everything), cases(rows)
    batch.inputs["a"][rows // 2] = bad
    release = released(model, batch, losses)
    assert release.isfinite().all()
    assert same(release, plain_loop(model, batch, losses)) or (rows == 1 and not release.any())


def test_a_step_that_keeps_a_broken_record_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is within no bound: a norm that makes a number of it lets it through."""
    honest = dpsgd._squares
    monkeypatch.setattr(dpsgd, "_squares", lambda rows: honest(rows).nan_to_num(1, 1, 1))
    with pytest.raises(AssertionError):
        test_a_broken_record_is_left_out_whole(2, torch.nan)


def test_a_batch_without_labels_is_a_step_of_zeros() -> None:
    model = built(Plain)
    with closing(opened(model)) as gradient:
        gradient(cases(3), lambda outputs, batch: torch.zeros(len(batch)))
    assert not gradient_of(model).any()


def test_a_result_that_nothing_uses_does_not_disturb_later_steps() -> None:
    class Wasteful(Plain):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            self.wasted = self.norm(self.convolution(batch.inputs["b"])) if len(batch) == 3 else None
            return {"grade": self.head(batch.inputs["a"].flatten(1)[:, :4])}

    model = built(Wasteful)
    expected = {rows: plain_loop(model, cases(rows), losses) for rows in (3, 4)}
    with closing(opened(model)) as gradient:
        for rows in (3, 4, 3):
            gradient(cases(rows), losses)
            assert same(gradient_of(model), expected[rows])


# -- The noise (D3) ----------------------------------------------------------------------------
class HalfNoise(SecureGenerator):
    """A mutant: noise of half the size."""

    def normal_(self, tensor: Tensor, std: float) -> Tensor:
        return super().normal_(tensor, std / 2)


class Million(nn.Module):
    """A million parameters that no row uses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1000, 1000, bias=False)


def noise_of(generator: SecureGenerator) -> Tensor:
    """A million draws of noise, as they end in the gradient, for stddev 3 x 0.5 over 10 rows."""
    torch.manual_seed(0)
    model = Million()
    with closing(PrivateGradient(model, model.parameters(), 0.5, 3.0, 10.0, generator)) as gradient:
        gradient(None, losses)
    return model.layer.weight.grad.double()


def stddev_is_right(noise: Tensor) -> bool:
    return abs(float(noise.std()) * 10 / (3 * 0.5) - 1) <= 0.02


def test_the_noise_has_its_stddev() -> None:
    assert stddev_is_right(noise_of(SecureGenerator()))


def test_half_the_noise_is_caught() -> None:
    assert not stddev_is_right(noise_of(HalfNoise()))


def test_no_seed_repeats_the_gradient() -> None:
    assert not (noise_of(SecureGenerator()) == noise_of(SecureGenerator())).float().mean() > 1e-3


def test_parameters_that_no_row_used_are_noised_too() -> None:
    model, batch = built(Everything), cases(3)
    batch.present[:, 0] = False
    with closing(opened(model, noise_multiplier=1.0)) as gradient:
        gradient(batch, losses)
    assert (model.first["a"].weight.grad != 0).any()
    assert (model.norms["a"].bias.grad != 0).all()


def test_what_is_released_lies_on_a_grid_so_that_low_bits_tell_nothing() -> None:
    model, batch = built(Plain), cases(3)
    with closing(opened(model, noise_multiplier=3.0 / CLIP_NORM)) as gradient:
        gradient(batch, losses)
    steps = gradient_of(model) / 2.0 ** (1 - 20)  # stddev 3
    assert torch.equal(steps, steps.round())


# -- Refusals ------------------------------------------------------------------------------------
class Stateful(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))


class Direct(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(3))


def with_layer(name: str, layer: nn.Module) -> nn.Module:
    model = built(Plain)
    model.add_module(name, layer)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Stateful(), "'seen' is a buffer"),
        (Direct(), "a parameter belongs to the model itself"),
        (with_layer("norm", nn.BatchNorm2d(4)), "'norm.running_mean' is a buffer"),
        (
            with_layer("norm", nn.BatchNorm2d(4, track_running_stats=False)),
            "'norm' normalises over the batch",
        ),
        (with_layer("memory", nn.LSTM(4, 4)), r"'memory' \(LSTM\) cannot be bounded"),
    ],
)
def test_a_model_that_cannot_be_bounded_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        opened(model)


@pytest.mark.parametrize(
    "wrong",
    [{"clip_norm": 0.0}, {"clip_norm": float("inf")}, {"noise_multiplier": -1.0}, {"expected_batch": 0.0}],
)
def test_numbers_that_bound_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PrivacyError, match="clip_norm and expected batch"):
        opened(built(Plain), **wrong)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(PrivacyError, match="'ghost' is not one of auto, hooks, functorch, ew"):
        opened(built(Plain), mode="ghost")


def test_expanded_weights_refuse_what_they_do_not_know() -> None:
    with pytest.raises(PrivacyError, match=r"'up' \(ConvTranspose2d\) is not supported"):
        opened(built(Everything), mode="ew")


def test_a_trainable_parameter_that_was_not_given_is_refused() -> None:
    model = built(Plain)
    with pytest.raises(PrivacyError, match=r"'norm.weight' is trainable but not given"):
        PrivateGradient(model, model.convolution.parameters(), 1.0, 1.0, 1.0, SecureGenerator())


class Folded(Plain):
    """A mutant: both modalities as rows of one batch."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        both = torch.cat([batch.inputs["a"], batch.inputs["b"]])
        features = self.norm(self.convolution(both)).flatten(2).mean(2)
        return {"grade": self.head(sum(features.chunk(2)))}


class Chosen(Plain):
    """A mutant: only the rows that have the modality run."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        has = batch.present[:, 0]
        features = self.norm(self.convolution(batch.inputs["a"][has])).flatten(2).mean(2)
        return {"grade": self.head(features.new_zeros(len(has), 4).masked_scatter(has[:, None], features))}


class Half(Plain):
    """A mutant: of two results of one layer, one is dropped."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        first, _ = (self.convolution(batch.inputs[name]) for name in "ab")
        return {"grade": self.head(self.norm(first).flatten(2).mean(2))}


class Borrowed(Plain):
    """A mutant: a layer's weight is used outside the layer."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = functional.conv2d(batch.inputs["a"], self.convolution.weight, padding=1)
        return {"grade": self.head(self.norm(x).flatten(2).mean(2))}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Folded, "Conv2d saw 6 rows of a batch of 3"),
        (Chosen, "Conv2d saw 2 rows of a batch of 3"),
        (Half, "Conv2d ran 2 times, but not every result reached the loss"),
        (Borrowed, "'convolution.weight': rows' gradients do not add up"),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused(kind: type[nn.Module], message: str) -> None:
    model, batch = built(kind), cases(3)
    batch.present[0, 0] = False
    with closing(opened(model)) as gradient, pytest.raises(PrivacyError, match=message):
        gradient(batch, losses)


def test_a_padding_that_opacus_ignores_is_refused() -> None:
    model = built(Plain)
    model.convolution = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
    with closing(opened(model)) as gradient, pytest.raises(PrivacyError, match="do not add up"):
        gradient(cases(3), losses)


def test_a_model_that_evaluates_is_refused() -> None:
    model = built(Plain).eval()
    with closing(opened(model)) as gradient, pytest.raises(PrivacyError, match="in evaluation mode"):
        gradient(cases(3), losses)


@pytest.mark.parametrize(
    ("mutant", "message"),
    [
        (lambda outputs, batch: losses(outputs, batch).mean(), r"the loss has shape \(\) for 4 cases"),
        (lambda outputs, batch: losses(outputs, batch).mean().expand(len(batch)), "depends on other cases"),
        (
            lambda outputs, batch: losses(outputs, batch) / losses(outputs, batch).sum(),
            "depends on other cases",
        ),
    ],
)
def test_a_loss_that_couples_cases_is_refused(mutant, message: str) -> None:  # noqa: ANN001
    with closing(opened(built(Plain))) as gradient, pytest.raises(PrivacyError, match=message):
        gradient(cases(4), mutant)


# -- What autograd is spared -----------------------------------------------------------------------
class Unbiased(Plain):
    """A first layer without a bias: of data and a hidden weight nothing asks for a gradient."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__(dims)
        self.convolution = CONVOLUTION[dims](1, 4, 3, padding=1, bias=False)


@pytest.mark.parametrize("kind", [Everything, Unbiased])
@pytest.mark.parametrize("dims", [2, 3])
def test_later_steps_are_bounded_as_the_first(kind: type[nn.Module], dims: int) -> None:
    """Whatever rows lack what, and after a step whose batch had less than all."""
    model = built(lambda: kind(dims))
    batches = [cases(rows, dims, size=4, seed=rows) for rows in (4, 3, 1, 2, 5)]
    for batch, absent in zip(batches, ([], [0], [], [0, 2], [1]), strict=True):
        batch.present[:, absent] = False
    expected = [plain_loop(model, batch, losses) for batch in batches]
    with closing(opened(model)) as gradient:
        for batch, right in zip(batches, expected, strict=True):
            gradient(batch, losses)
            assert same(gradient_of(model), right)


def test_sums_of_row_gradients_are_taken_until_they_are_checked_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, summed = built(Everything), []
    honest = PrivateGradient._require_complete

    def watched(self: PrivateGradient, rows: list[Tensor | None]) -> None:
        summed.append(model.shared.weight.grad is not None)
        honest(self, rows)

    monkeypatch.setattr(PrivateGradient, "_require_complete", watched)
    with closing(opened(model)) as gradient:
        for _ in range(2):
            gradient(cases(3), losses)
    assert summed == [True, False]


def test_a_forward_that_fails_leaves_every_weight_in_view() -> None:
    model, batch = built(Plain), cases(3)
    expected = plain_loop(model, batch, losses)
    wrong = replace(batch, inputs={"a": torch.zeros(3, 5, 8, 8)})
    with closing(opened(model)) as gradient:
        gradient(batch, losses)
        with pytest.raises(RuntimeError, match="channels"):
            gradient(wrong, losses)
        assert all(p.requires_grad for p in model.parameters())
        gradient(batch, losses)
        assert same(gradient_of(model), expected)

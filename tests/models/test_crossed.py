"""One kernel for slices and volumes: moved as the paper moves it, and the same parameters for both."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from imaging.cohort import Cohort
from models import crossed
from models.catalogue import build_model
from models.crossed import CrossConv, readings, shift, translation
from models.flat import Flat, carry
from models.zoo.cross_dim import CrossDim
from protocol.batch import Batch
from protocol.errors import RecipeError
from protocol.recipe import Evaluation, Head, Modality, Part, Recipe, Training
from tests.federation import Federation
from tests.models.cases import recipe_for


def moved_by_fourier(kernel: np.ndarray, axis: np.ndarray, angle: float) -> np.ndarray:
    """The paper's way, line by line: a phase for each frequency of a kernel `(O, I, 3, 3, 3)`."""
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + angle * skew
    frequencies = np.stack(np.meshgrid(*[np.fft.fftfreq(3)] * 3, indexing="ij"))
    turned = np.einsum("ab,bxyz->axyz", turn, frequencies).sum(0)
    transform = np.fft.fftn(kernel, axes=(2, 3, 4)) * np.exp(-2j * np.pi * turned)
    return np.fft.ifftn(transform, axes=(2, 3, 4)).real


def drawn(seed: int = 0) -> tuple[CrossConv, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    layer = CrossConv(2, 3, ["modality:ct"])
    x = torch.randn(4, 2, 5, 6, generator=generator)
    axis = functional.normalize(torch.randn(4, 3, generator=generator), dim=1)
    return layer, x, axis, 0.7 * torch.randn(4, generator=generator).tanh()


def check_the_kernel_is_moved_as_in_the_paper() -> None:
    layer, x, axis, angle = drawn()
    found = layer.across(readings(x, shift(axis, angle))).squeeze(4)
    for row in range(4):
        kernel = moved_by_fourier(layer.whole.weight.detach().numpy(), axis[row].numpy(), float(angle[row]))
        plane = torch.tensor(kernel[..., 1], dtype=torch.float32)
        expected = functional.conv2d(x[row : row + 1], plane, padding=1)
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=1e-4)


def test_the_kernel_is_moved_as_in_the_paper() -> None:
    check_the_kernel_is_moved_as_in_the_paper()


def test_a_kernel_moved_the_other_way_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossed, "translation", lambda shifts: translation(-shifts))
    with pytest.raises(AssertionError):
        check_the_kernel_is_moved_as_in_the_paper()


def test_no_angle_is_a_roll_by_one() -> None:
    kernel = np.random.default_rng(0).normal(size=(1, 1, 3, 3, 3))
    np.testing.assert_allclose(
        moved_by_fourier(kernel, np.array([1.0, 0.0, 0.0]), 0.0),
        np.roll(kernel, (1, 1, 1), (2, 3, 4)),
        atol=1e-12,
    )
    assert torch.equal(shift(torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1)), torch.ones(1, 3))
    torch.testing.assert_close(translation(torch.tensor(1.0)), torch.eye(3).roll(1, 0))
    torch.testing.assert_close(translation(torch.tensor(0.0)), torch.eye(3))


def test_a_turn_stays_within_an_eighth() -> None:
    """Whatever the slice: an axis of length one, or none, and at most pi/4."""
    turn = crossed.Turn(2)
    axis, angle = turn(100 * torch.randn(8, 2, 4, 4))
    torch.testing.assert_close(axis.norm(dim=1), torch.ones(8))
    assert float(angle.detach().abs().max()) <= np.pi / 4 + 1e-6


def test_a_volume_is_convolved_as_ever() -> None:
    layer, *_ = drawn()
    x = torch.randn(1, 2, 4, 5, 3)
    assert torch.equal(layer(x, "modality:ct"), functional.conv3d(x, layer.whole.weight, padding=1))


def test_kernels_of_slices_are_those_of_volumes() -> None:
    """A network of slices goes on as one of volumes: shared parameters of the same names and shapes."""
    flat = Flat(build_model(recipe_for("cross_dim", dims=2)))
    deep = Flat(build_model(recipe_for("cross_dim", dims=3, seed=2)))
    carry(flat.vectors, flat.layout, deep)
    assert flat.layout.groups["shared"] == deep.layout.groups["shared"]
    assert torch.equal(flat.vectors["shared"], deep.vectors["shared"])
    turns = [name for name, _ in deep.model.named_parameters() if ".turns." in name]
    assert not turns


def test_a_volume_that_is_none_of_the_recipe_s_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.volumes: 'ehr' is no image of this recipe; .* flair, t1"):
        build_model(recipe_for("cross_dim", volumes=("ehr",)))


# -- A federation of both ------------------------------------------------------------------------
BOTH = Recipe(
    "both",
    {"slice": Modality(), "volume": Modality()},
    {"grade": Head("classification", 1, Part("bce"))},
    Part("memory"),
    Part("cross_dim", {"channels": (4, 8), "volumes": ("volume",)}),
    rounds=1,
    training=Training(batch=4, rate=0.05),
    evaluation=Evaluation(subsets=False),
)


def cohort(site: str, held: str) -> Cohort:
    """Six patients with a slice, or with a volume."""
    generator = torch.Generator().manual_seed(len(site))
    inputs = {"slice": torch.randn(6, 1, 8, 8, generator=generator), "volume": torch.randn(6, 1, 8, 8, 4)}
    present = torch.tensor([[name == held for name in BOTH.modalities]] * 6)
    grade = {"grade": torch.arange(6) % 2}
    cases = Batch(inputs, present, grade, {"grade": torch.ones(6, dtype=torch.bool)})
    names, patient = tuple(map(str, range(6))), torch.arange(6)
    return Cohort(
        site, tuple(BOTH.modalities), names, patient, torch.tensor([0, 0, 0, 0, 1, 2]), cases, (1.0, 1.0)
    )


def test_hospitals_of_slices_and_of_volumes_train_one_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both send the kernels; turns and norms only who has the modality."""
    held = {"flat": cohort("flat", "slice"), "deep": cohort("deep", "volume")}
    record = Federation(tmp_path, held, monkeypatch).run(BOTH)
    sent = {site.site: set(site.groups) - {"shared", "head:grade"} for site in record.rounds[-1].sites}
    assert sent == {"flat": {"modality:slice"}, "deep": {"modality:volume"}}
    assert all("shared" in site.groups for site in record.rounds[-1].sites)
    model = build_model(BOTH)
    assert isinstance(model, CrossDim)
    turns = {model.group_of(name) for name, _ in model.named_parameters() if ".turns." in name}
    assert turns == {"modality:slice"}


def test_a_case_may_have_both() -> None:
    one = cohort("flat", "slice").cases
    both = replace(one, present=torch.ones_like(one.present))
    model = build_model(BOTH)
    assert not torch.equal(model(both)["grade"], model(one)["grade"])

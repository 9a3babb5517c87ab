"""A fixed order is asked for on a card alone; `tests.sim.test_cuda` has the bits."""

from collections.abc import Iterator

import pytest
import torch

from client.card import repeatable


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.parametrize(("device", "fixed"), [("cpu", False), ("cuda", True), ("cuda:1", True)])
def test_a_fixed_order_is_for_cards(device: str, fixed: bool) -> None:  # noqa: FBT001
    repeatable(device)
    assert torch.are_deterministic_algorithms_enabled() == fixed
    assert torch.backends.cudnn.deterministic == fixed

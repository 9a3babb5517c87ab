"""The last look: nothing leaves that the site does not own."""

import pytest
import torch

from client.egress import release
from protocol.errors import PrivacyError
from protocol.update import Update

OWNED = {"shared": 5, "modality:flair": 3}


def _update(*groups: str, counts: dict[str, int] | None = None) -> Update:
    deltas = {group: torch.ones(2) for group in groups}
    return Update(deltas, counts or {g: OWNED.get(g, 1) for g in groups}, 1.0)


def test_what_is_owned_passes_untouched() -> None:
    update = _update("shared", "modality:flair")
    assert release(update, OWNED) is update


@pytest.mark.parametrize("group", ["private", "modality:t1", "head:tumour"])
def test_a_stray_group_stays(group: str) -> None:
    with pytest.raises(PrivacyError, match=group):
        release(_update("shared", group), OWNED)


def test_a_stray_group_in_an_extra_stays() -> None:
    update = Update({"shared": torch.ones(2)}, {"shared": 5}, 1.0, {"control": {"private": torch.ones(2)}})
    with pytest.raises(PrivacyError, match="private"):
        release(update, OWNED)


def test_a_count_that_is_not_the_cohorts_stays() -> None:
    with pytest.raises(PrivacyError, match="shared"):
        release(_update("shared", counts={"shared": 6}), OWNED)

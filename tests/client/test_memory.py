"""What a site keeps from round to round."""

from pathlib import Path

import pytest
import torch

from client.memory import recall, remember
from protocol.errors import CheckpointError


def _of(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"control": {"shared": torch.full((3,), value), "modality:flair": torch.full((2,), -value)}}


def test_round_trip(tmp_path: Path) -> None:
    remember(tmp_path, 1, _of(1.5))
    found = recall(tmp_path, 2)
    assert found.keys() == {"control"}
    assert torch.equal(found["control"]["shared"], torch.full((3,), 1.5))
    assert torch.equal(found["control"]["modality:flair"], torch.full((2,), -1.5))


def test_a_round_asked_again_starts_from_what_the_first_attempt_started_from(tmp_path: Path) -> None:
    remember(tmp_path, 1, _of(1))
    remember(tmp_path, 2, _of(2))
    assert recall(tmp_path, 2)["control"]["shared"][0] == 1
    assert recall(tmp_path, 3)["control"]["shared"][0] == 2


def test_two_rounds_are_kept(tmp_path: Path) -> None:
    for number in range(1, 6):
        remember(tmp_path, number, _of(number))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "round-000004.safetensors",
        "round-000005.safetensors",
    ]


def test_nothing_to_keep_writes_nothing(tmp_path: Path) -> None:
    remember(tmp_path / "site", 1, {})
    assert not (tmp_path / "site").exists()
    assert recall(tmp_path / "site", 5) == {}


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    remember(tmp_path, 3, _of(1))
    path = tmp_path / "round-000003.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="round 3"):
        recall(tmp_path, 4)


def test_a_partial_file_of_a_killed_site_is_no_memory(tmp_path: Path) -> None:
    (tmp_path / "round-000001.safetensors.partial").write_bytes(b"half")
    assert recall(tmp_path, 9) == {}


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    (tmp_path / "round-000001.safetensors.partial").write_bytes(b"left by a kill, for all to read")
    remember(tmp_path, 1, _of(1))
    assert (tmp_path / "round-000001.safetensors").stat().st_mode & 0o777 == 0o600

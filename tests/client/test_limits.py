"""The size of a message, read of the policy alone, is what reading the whole policy finds."""

from pathlib import Path

import pytest

from client.limits import LARGEST_BYTES, largest, require_room
from client.policy import parse_policy
from protocol.errors import PolicyError

HOSPITAL = Path(__file__).parents[2] / "client" / "policies" / "hospital.yaml"


@pytest.mark.parametrize("most", [1, LARGEST_BYTES + 1, 2**62, None])
def test_a_policy_that_says_it_is_read_alike(tmp_path: Path, most: int | None) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"leaves: {{largest_message_bytes: {'null' if most is None else most}}}")
    assert largest(path) == parse_policy(path.read_text()).leaves.largest_message_bytes == most


@pytest.mark.parametrize("text", ["", "leaves: {}", "leaves: {loss: true}", HOSPITAL.read_text()])
def test_a_policy_that_does_not_say_it_is_read_alike(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    assert largest(path) == parse_policy(text).leaves.largest_message_bytes == LARGEST_BYTES


SAYS = "leaves: {largest_message_bytes: %s}"


@pytest.mark.parametrize("text", ["[", "leaves: 7", SAYS % "much", SAYS % "true"])
def test_a_policy_that_is_none_opens_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    assert largest(path) == LARGEST_BYTES
    path.write_text(text)
    assert largest(path) == LARGEST_BYTES
    with pytest.raises(PolicyError):
        parse_policy(text)


def test_a_site_without_a_policy_allows_any_size() -> None:
    require_room([2**62], None)

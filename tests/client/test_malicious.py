"""The scripted coordinator: what ten hospitals gave it and what not."""

import pytest

from bench.malicious import Got, play
from imaging.sources import SOURCES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Got]:
    return {line.asked: line for line in play(tmp_path_factory.mktemp("hospitals"))}


def test_an_honest_round_is_answered_by_all_ten(lines: dict[str, Got]) -> None:
    line = next(iter(lines.values()))
    assert not line.refused
    assert line.why.startswith("10 of 10 answered")


REFUSED = [
    "noise multiplier 0.01",
    "an objective that couples",
    "round 99",
    "the private group",
    "a group that no network has",
    "parameters of another layout",
    "one number for",
    "20 MB",
    "NaN",
    "labs' parameters",
    "files outside",
    "scores on training",
    "scores of a personal",
]


@pytest.mark.parametrize("beginning", REFUSED)
def test_what_is_refused_says_why(lines: dict[str, Got], beginning: str) -> None:
    (line,) = (each for asked, each in lines.items() if asked.startswith(beginning))
    assert line.refused, line.why
    assert "own log" not in line.why


def test_nothing_was_written_outside(lines: dict[str, Got], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp()
    assert not list(root.rglob("elsewhere"))


def test_it_leaves_no_source_behind(lines: dict[str, Got]) -> None:
    assert lines
    assert "made_up" not in SOURCES


POLICY = """
recipes: {rules: [{name: [honest], data: [made_up], objective: [bce, exponential]}]}
privacy: {largest_epsilon_run: 8.0}
"""
"""The shipped policy, with one recipe allowed and what that asks for."""


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Got]:
    folder = tmp_path_factory.mktemp("ruled")
    (folder / "policy.yaml").write_text(POLICY)
    return {line.asked: line for line in play(folder, folder / "policy.yaml")}


def test_under_a_policy_the_honest_round_is_answered_and_nothing_weaker(ruled: dict[str, Got]) -> None:
    honest, *others = ruled.values()
    assert honest.why.startswith("10 of 10 answered")
    given = [line.asked for line in others if not line.refused]
    assert given == ["the same round twice, as another attempt"]


def test_without_a_policy_weaker_recipes_are_answered(lines: dict[str, Got]) -> None:
    assert not lines["no privacy (epsilon null)"].refused
    assert not lines["epsilon 1,000,000, noise multiplier 0.3"].refused

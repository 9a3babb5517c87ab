"""Looking at runs from the command line."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from protocol.errors import TrackingError
from protocol.recipe import dump_recipe
from server.cli import report, runs, write_report
from server.folders import find_run
from server.record import to_json
from tests.server import records

app = typer.Typer()
app.add_typer(runs, name="run")
app.command("report")(report)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, one finished and private, one killed in round 3 without privacy."""
    monkeypatch.setenv("COLUMNS", "250")
    for name, private, rounds, status in (
        ("phantom-a1", True, 12, "finished"),
        ("phantom-b2", False, 2, "running"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(dump_recipe(records.recipe(private=private)))
        record = records.record(private=private, rounds=rounds, status=status)
        (folder / "record.json").write_text(to_json(record))
    return tmp_path


def _said(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_list(out: Path) -> None:
    text = _said("run", "list", "--out", str(out))
    assert "12/12" in text
    assert "2/12" in text
    assert "going on or killed" in text
    assert "no privacy" in text


def test_list_of_nothing_says_how_to_start(tmp_path: Path) -> None:
    assert "consilium sim run" in _said("run", "list", "--out", str(tmp_path))


def test_an_unreadable_run_does_not_hide_the_others(out: Path) -> None:
    (out / "phantom-b2" / "record.json").write_text("{")
    text = _said("run", "list", "--out", str(out))
    assert "no readable record" in text
    assert "12/12" in text


def test_show(out: Path) -> None:
    text = _said("run", "show", "phantom-a", "--out", str(out))
    for words in ("finished", "fedprox", "held-out flair", "north", str(out / "phantom-a1" / "recipe.yaml")):
        assert words in text


def test_compare_shows_what_differs_and_nothing_else(out: Path) -> None:
    text = _said("run", "compare", "phantom-a1", "phantom-b2", "--out", str(out))
    assert "privacy.epsilon" in text
    assert "strategy.mu" not in text


def test_report(out: Path) -> None:
    text = _said("report", "phantom-a1", "--out", str(out))
    assert str(out / "phantom-a1" / "report.html") in text
    assert (out / "phantom-a1" / "report.html").read_text().startswith("<!doctype html>")


def test_pictures_stay_for_a_later_report(out: Path) -> None:
    write_report(out / "phantom-a1", [("a lesion", b"\x89PNG")])
    assert "a lesion" in write_report(out / "phantom-a1").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("phantom-", "may be any of phantom-a1, phantom-b2"),
        ("fantom-a1", "did you mean 'phantom-a1'"),
        ("x", "run list"),
    ],
)
def test_a_name_that_is_no_run(out: Path, name: str, words: str) -> None:
    with pytest.raises(TrackingError, match=words):
        find_run(out, name)

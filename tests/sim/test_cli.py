"""`sim phantom`, `sim run` and what follows them, in process."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import consilium
from sim.phantom import PUBLIC

RECIPE = Path(__file__).parents[2] / "recipes" / "phantom.yaml"
SMALL = ["rounds=1", "training.steps=1", "training.batch=4", "model.channels=[8,8]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantom"
    result = CliRunner().invoke(
        consilium.cli, ["sim", "phantom", str(folder), "--sites", "2", "--patients", "6"]
    )
    assert result.exit_code == 0, result.output
    return folder


def _run(data: Path, out: Path) -> str:
    words = ["sim", "run", str(RECIPE), *SMALL, "--data", str(data), "--out", str(out), "--tracking", "off"]
    result = CliRunner().invoke(consilium.cli, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_run_ends_in_a_table_and_a_report_with_pictures(data: Path, tmp_path: Path) -> None:
    text = _run(data, tmp_path)
    assert "held-out patients: tumour/dice" in text
    (folder,) = tmp_path.glob("phantom-*")
    page = (folder / "report.html").read_text()
    assert str(folder / "report.html") in text.replace("\n", "")
    assert "truth blue, prediction orange" in page
    assert list((folder / "overlays").glob("*.png"))


def test_no_picture_is_made_unless_the_data_may_be_shown(data: Path, tmp_path: Path) -> None:
    permit = data / PUBLIC
    text = permit.read_text()
    permit.unlink()
    try:
        _run(data, tmp_path)
    finally:
        permit.write_text(text)
    (folder,) = tmp_path.glob("phantom-*")
    assert not (folder / "overlays").exists()
    assert "prediction orange" not in (folder / "report.html").read_text()


def test_our_errors_are_one_line_and_a_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["consilium", "run", "show", "nothing"])
    with pytest.raises(SystemExit) as stop:
        consilium.main()
    assert stop.value.code == 51
    assert capsys.readouterr().err.startswith("TrackingError: there is no run 'nothing'")


def test_a_wrong_word_is_a_message_and_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["consilium", "sim", "run", str(RECIPE)])
    with pytest.raises(SystemExit) as stop:
        consilium.main()
    assert stop.value.code == 2
    assert "--data" in capsys.readouterr().err

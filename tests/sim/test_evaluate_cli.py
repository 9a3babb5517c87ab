"""`consilium evaluate`: a run and an exported model, from the command to the files."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import consilium
from models import exported
from protocol.recipe import load_recipe
from server import checkpoint
from server.book import unflatten
from server.robustness import read
from sim.phantom import write_phantom

RECIPE = Path(__file__).parents[2] / "recipes" / "phantom.yaml"
SMALL = [
    "rounds=1",
    "training.steps=1",
    "training.batch=4",
    "model.channels=[4,4]",
    "data.slices=1",
    "data.size=[16,16]",
]


def run(*words: object) -> str:
    result = CliRunner().invoke(consilium.cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of two hospitals, and two runs on it."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_phantom(folder / "phantom", sites=2, patients=4, size=16)
    for name in ("first", "second"):
        words = [*SMALL, f"name={name}", "modalities={flair: {kind: image}, t2: {kind: image}}"]
        run(
            "sim",
            "run",
            RECIPE,
            *words,
            "--data",
            folder / "phantom",
            "--out",
            folder,
            "--tracking",
            "off",
            "--threads",
            1,
        )
    return folder


def test_a_run_is_evaluated_and_its_report_says_so(place: Path) -> None:
    (folder,) = place.glob("first-*")
    text = run("evaluate", folder.name, "--out", place, "--replicates", 20)
    found = read(folder)

    assert found is not None
    assert found.patients == {"site_1": 1, "site_2": 1}
    assert "emm/e_p0.1" in text
    assert "When modalities fail" in (folder / "report.html").read_text()
    assert "no be and rbe" in (folder / "report.html").read_text()
    assert (folder / "robustness.csv").read_text().startswith("family,level,metric,over")
    assert text.replace("\n", "").count(str(folder / "report.html")) == 1

    reference = ["--reference", folder.name, "--out", place]
    (other,) = place.glob("second-*")
    run("evaluate", other.name, *reference, "--replicates", 20, "--best")
    again = read(other)
    assert again is not None
    assert again.parameters == "best"
    # The same recipe but for its name, after the one round that there was: the same model.
    assert again.headlines["be"].value == pytest.approx(1.0)
    assert again.reference == folder.name
    result = CliRunner().invoke(
        consilium.cli, ["evaluate", other.name, *map(str, reference), "--replicates", "21"]
    )
    assert "evaluated with replicates 20, this with 21" in str(result.exception)


STAGED = """\
name: staged
modalities: {flair: {kind: image}, t2: {kind: image}}
heads: {grade: {kind: classification, objective: bce}}
data: {name: nifti, size: [16, 16], slices: 1}
model: {name: bm_mae, patch: 8, size: 8, depth: 1, attention_heads: 2, decoder_size: 8}
rounds: 1
training: {batch: 4, steps: 1}
evaluation: {select: grade/accuracy}
stages: [{name: pretrain, rounds: 1, heads: {scan: {kind: pretext, objective: own}}}]
"""


def test_a_run_in_stages_is_evaluated_by_its_last(place: Path, tmp_path: Path) -> None:
    (tmp_path / "staged.yaml").write_text(STAGED)
    words = ["--data", place / "phantom", "--out", tmp_path, "--tracking", "off", "--threads", 1]
    run("sim", "run", tmp_path / "staged.yaml", *words)
    (folder,) = tmp_path.glob("staged-*")
    run("evaluate", folder.name, "--out", tmp_path, "--replicates", 5)
    found = read(folder)

    assert found is not None
    assert {row.metric.partition("/")[0] for row in found.rows} == {"grade"}
    assert {row.level for row in found.rows if row.family == "declared"} == {"flair", "t2", "flair+t2"}


def test_an_exported_model_is_the_run_s(place: Path) -> None:
    (folder,) = place.glob("first-*")
    recipe = load_recipe(folder / "recipe.yaml")
    parameters = unflatten(checkpoint.load(folder / "checkpoints").vectors).parameters
    exported.write_model(place / "exported", recipe, parameters)
    words = ["--data", place / "phantom", "--out", place, "--replicates", 20]
    run("evaluate", place / "exported", *words)
    run("evaluate", folder.name, "--out", place, "--replicates", 20)
    mine, its = read(place / "exported-robustness"), read(folder)

    assert mine is not None
    assert its is not None
    assert repr(mine.rows) == repr(its.rows)
    assert (place / "exported-robustness" / "robustness.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exported-without-data"], "there is no run"),
        (["first-", "--reference", "second-"], "was not evaluated"),
        (["first-", "--metric", "tumour/beauty"], "no metric to evaluate by"),
    ],
)
def test_what_cannot_be_evaluated_is_said(place: Path, words: list[str], message: str) -> None:
    for old in place.glob("second-*/robustness.json"):
        old.unlink()
    result = CliRunner().invoke(consilium.cli, ["evaluate", *words, "--out", str(place)])

    assert message in str(result.exception)

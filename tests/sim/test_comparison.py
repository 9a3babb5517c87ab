"""Methods, controls and seeds as whole runs, stopped and gone on with."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import consilium
from client.site import open_site
from imaging.cohort import with_pretexts
from protocol.errors import CheckpointError, SettingsError
from protocol.recipe import EarlierStage, Head, Part, Recipe, Training, dump_recipe, load_recipe, recipe_hash
from server import robustness
from server.book import Watch
from server.record import Round, SiteRound, read_record
from server.robustness import Robustness
from sim import bench_cli, comparison
from sim.assessment import Effort
from sim.comparison import (
    EARLY_FUSION,
    Cell,
    Plan,
    cells,
    compared,
    contenders,
    early_fusion,
    finished,
    with_controls,
)
from sim.opened import sites_of_run
from sim.robustness import CLEAN
from sim.run import Launch, conduct, new_run, read_launch
from tests.federation import RECIPE, Federation, cohorts
from tests.server.test_ranking import MODELS

PHANTOM = Path(__file__).parents[2] / "recipes" / "phantom.yaml"

METHOD = replace(RECIPE, rounds=2, training=Training(batch=4, epochs=1, rate=0.05))
SCAN = {"scan": Head("pretext", 1, Part("own"))}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    Federation(tmp_path, cohorts(), monkeypatch)
    monkeypatch.setattr(comparison, "read_cohort", lambda root, recipe, site: cohorts()[site])
    monkeypatch.setattr(
        "client.site.read_cohort", lambda root, recipe, site: with_pretexts(cohorts()[site], recipe)
    )
    open_site.cache_clear()
    yield tmp_path
    open_site.cache_clear()


def quiet(cell: Cell) -> Watch:
    return lambda number, news: None


def test_the_controls_are_the_recipe_with_one_thing_changed(data: Path) -> None:
    """The pooled ones take, each round, the largest site's steps and all sites' steps."""
    found = with_controls(METHOD, data)
    a_round = {"north": 4, "south": 4, "west": 2}  # of 16, 14 and 8 slices, 4 a step

    assert list(found)[:2] == [EARLY_FUSION, "tiny"]
    assert found["tiny"] == METHOD
    assert found[EARLY_FUSION].model == Part("early_fusion_unet", {"channels": (4, 8)})
    assert found["tiny: one model per site"] == replace(METHOD, strategy=Part("local"))
    pooled = [found[f"tiny: pooled, {steps}"] for steps in ("a site's steps", "all steps")]
    assert [each.training.steps for each in pooled] == [max(a_round.values()), sum(a_round.values())]
    assert all(each.roster.train == ("pooled",) for each in pooled)


def test_early_fusion_has_no_pretext(data: Path) -> None:
    """Its network knows none; what it predicts is what the recipe predicts."""
    found = with_controls(replace(METHOD, heads={**METHOD.heads, **SCAN}), data)
    assert found[EARLY_FUSION].heads == METHOD.heads


@pytest.mark.parametrize(
    ("data", "dims"),
    [
        ({"size": [8, 8, 4]}, {"dims": 3}),
        ({"size": 8, "depth": 4}, {"dims": 3}),
        ({"size": [8, 8]}, {}),
        ({"size": 8}, {}),
    ],
)
def test_early_fusion_reads_volumes_where_the_data_are_volumes(
    data: dict[str, object], dims: dict[str, int]
) -> None:
    """Whatever the recipe's own model says of itself: one takes its dimensions from what it is shown."""
    sized = load_recipe(dump_recipe(replace(METHOD, data=replace(METHOD.data, options=data))))
    assert early_fusion(sized).model == Part("early_fusion_unet", {"channels": (4, 8), **dims})


def test_of_a_strategy_that_names_a_site_the_pooled_one_is_named(data: Path) -> None:
    named = replace(METHOD, strategy=Part("fedmema", {"server": "north"}))
    found = with_controls(named, data)
    assert found["tiny"] == named
    assert found["tiny: pooled, all steps"].strategy.options == {"server": "pooled"}


def test_equal_controls_of_two_methods_are_one_cell(data: Path) -> None:
    other = replace(METHOD, name="other", model=Part("encoders_unet", {"channels": (4, 8)}))
    mine, theirs = (with_controls(each, data)[EARLY_FUSION] for each in (METHOD, other))

    assert recipe_hash(mine) == recipe_hash(theirs)
    places = {each.place(data) for each in cells({"a": mine}, "x", data, (1, 2))}
    assert len(places) == 2


def test_early_fusion_is_the_first_recipes_and_the_others_have_their_controls_or_none(data: Path) -> None:
    other = replace(METHOD, name="other", training=Training(batch=4, epochs=1, rate=0.1))
    alone = contenders([METHOD, other], data, "first")
    whole = contenders([METHOD, other], data, "each")

    assert alone == with_controls(METHOD, data) | {"other": other}
    assert whole == with_controls(other, data) | with_controls(METHOD, data)
    early = contenders([METHOD, other], data, "early")
    assert early == {EARLY_FUSION: alone[EARLY_FUSION], "tiny": METHOD, "other": other}
    assert list(early) == [EARLY_FUSION, "tiny", "other"]


def few(recipe: Recipe, data: Path) -> dict[str, Recipe]:
    return {label: each for label, each in with_controls(recipe, data).items() if "pooled" not in label}


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_and_ends_as_if_it_had_not_been(data: Path) -> None:
    """Stopped in the second method's second round; what was finished is not touched again."""
    plan, wanted = Plan(data / "out", Effort(0, 5)), few(METHOD, data)

    def stop(cell: Cell) -> Watch:
        def watch(number: int, news: SiteRound | Round) -> None:
            if cell.label == "tiny" and number == 2:
                raise KeyboardInterrupt

        return watch

    with pytest.raises(KeyboardInterrupt):
        compared(wanted, ("set", data), (7,), plan, stop)
    done = {path: path.stat().st_mtime_ns for path in plan.out.glob("*/*/*/robustness.json")}
    half = [read_record(path.parent) for path in plan.out.glob("*/*/*/record.json")]
    assert len(done) == 1
    assert sorted(record.status for record in half) == ["finished", "stopped"]

    rounds: list[tuple[str, int]] = []

    def note(cell: Cell) -> Watch:
        return lambda number, news: rounds.append((cell.label, number)) if isinstance(news, Round) else None

    found = compared(wanted, ("set", data), (7,), plan, note)
    assert rounds == [("tiny", 2), ("tiny: one model per site", 1), ("tiny: one model per site", 2)]
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    whole = compared(wanted, ("set", data), (7,), Plan(data / "again", Effort(0, 5)), quiet)
    assert all(repr(found[label][0][0].rows) == repr(whole[label][0][0].rows) for label in wanted)
    assert found["tiny"][0][0].headlines["be"].value > 0
    assert "be" not in found[EARLY_FUSION][0][0].headlines


def test_another_effort_looks_again_and_trains_nothing(data: Path) -> None:
    (cell,) = cells({"tiny": METHOD}, "set", data, (7,))
    folder = finished(cell, Plan(data / "out", Effort(0, 5)), None, quiet(cell))
    before = (folder / "rounds.jsonl").stat().st_mtime_ns
    again = finished(cell, Plan(data / "out", Effort(0, 6)), None, quiet(cell))

    assert again == folder
    assert (folder / "rounds.jsonl").stat().st_mtime_ns == before
    assert comparison.results(folder)[0].replicates == 6


def test_who_looks_at_clean_scans_alone_may_look_at_the_rest_later(data: Path) -> None:
    """The clean numbers are the same; who has seen everything is not asked again."""
    (cell,) = cells({"tiny": METHOD}, "set", data, (7,))

    def seen(*, clean: bool) -> tuple[Robustness, str]:
        folder = finished(cell, Plan(data / "out", Effort(0, 5, clean)), None, quiet(cell))
        found, _ = comparison.results(folder)
        return found, robustness.to_json(found)

    (brief, _), (whole, text) = seen(clean=True), seen(clean=False)
    assert {row.family for row in brief.rows} == {"own", "declared"}
    assert {row.family for row in whole.rows} > {"own", "declared", "nm", "zeroed"}
    assert [repr(row) for row in whole.rows if row.family in CLEAN] == [repr(row) for row in brief.rows]
    assert {**whole.headlines, **brief.headlines} == whole.headlines
    assert seen(clean=True)[1] == text


def test_a_run_in_stages_is_looked_at_when_it_came_to_the_last(data: Path) -> None:
    """Before that the parameters are another stage's."""
    staged = replace(METHOD, rounds=1, stages=(EarlierStage("first", 1),))
    (cell,) = cells({"tiny": staged}, "set", data, (7,))
    folder = new_run(cell.recipe, Launch(data, tracking="off", threads=1), cell.place(data / "out"))

    def stop(number: int, news: SiteRound | Round) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conduct(folder, cell.recipe, stop)
    with pytest.raises(CheckpointError, match=r"of stage 'first'.*run resume"):
        next(sites_of_run(folder, cell.recipe, read_launch(folder)))
    assert finished(cell, Plan(data / "out", Effort(0, 5)), None, quiet(cell)) == folder
    assert comparison.results(folder)[0].metric == "tumour/dice"


def test_a_run_in_stages_is_compared_with_its_controls(data: Path) -> None:
    """By one metric, that of its last stage; all take as many rounds, and early fusion learns no pretext."""
    sizes = {"patch": 2, "size": 8, "depth": 1, "attention_heads": 2, "decoder_size": 8, "width": 4}
    pretrained = EarlierStage("pretrain", 1, heads=SCAN)
    staged = replace(METHOD, model=Part("bm_mae", sizes), rounds=1, stages=(pretrained,))
    found = compared(few(staged, data), ("set", data), (7,), Plan(data / "out", Effort(0, 5)), quiet)

    assert list(found) == [EARLY_FUSION, "tiny", "tiny: one model per site"]
    assert {each[0][0].metric for each in found.values()} == {"tumour/dice"}
    records = [read_record(path.parent) for path in (data / "out").glob("*/*/*/record.json")]
    assert [len(record.rounds) for record in records] == [2] * 3


def test_runs_of_other_data_are_not_taken_for_these(data: Path) -> None:
    (cell,) = cells({"tiny": METHOD}, "set", data, (7,))
    plan = Plan(data / "out", Effort(0, 5))
    finished(cell, plan, None, quiet(cell))
    (data / "elsewhere").mkdir()

    with pytest.raises(SettingsError, match="choose another --out"):
        finished(replace(cell, data=data / "elsewhere"), plan, None, quiet(cell))


def test_the_page_has_the_command_the_table_and_a_plot_beside_it(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One section a data set; the results are those of `tests.server.test_ranking`."""
    wanted = dict.fromkeys(MODELS, METHOD)
    monkeypatch.setattr(bench_cli, "contenders", lambda recipes, folder, controls: wanted)
    monkeypatch.setattr(bench_cli, "compared", lambda *given: MODELS)
    words = ["bench", "methods", str(PHANTOM), "--data", "a=here", "--data", "b=there", "--set", "rounds=5"]
    page = data / "docs" / "comparison.md"
    result = CliRunner().invoke(consilium.cli, [*words, "--page", str(page)], catch_exceptions=False)
    text = page.read_text()

    assert result.exit_code == 0
    assert (
        "--data a=here --data b=there --seeds 42,43,44 --controls each --replicates 1000 --set rounds=5\n"
        in text
    )
    assert text.count("| better | ") == 2
    for name in ("a", "b"):
        assert f"](comparison-{name}.svg)" in text
        assert (page.parent / f"comparison-{name}.svg").read_text().startswith("<svg")


def test_a_setting_may_be_of_one_data_set_or_of_one_recipe(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, int]] = []

    def see(recipes: list[Recipe], *_: object) -> dict[str, Recipe]:
        asked.append({recipe.name: recipe.rounds for recipe in recipes})
        return dict.fromkeys(MODELS, METHOD)

    monkeypatch.setattr(bench_cli, "contenders", see)
    monkeypatch.setattr(bench_cli, "compared", lambda *given: MODELS)
    recipes = [str(PHANTOM), str(PHANTOM.with_name("ivdnet.yaml"))]
    words = [
        "bench",
        "methods",
        *recipes,
        "--data",
        "a=here",
        "--data",
        "b=there",
        "--page",
        str(data / "p.md"),
    ]
    changes = [
        "rounds=5",
        "a:rounds=6",
        "ivdnet:rounds=7",
        "b:ivdnet:rounds=8",
        "a:heads={tumour: {kind: segmentation}}",
    ]
    given = [word for change in changes for word in ("--set", change)]
    result = CliRunner().invoke(consilium.cli, [*words, *given], catch_exceptions=False)

    assert result.exit_code == 0
    assert asked == [{"phantom": 6, "ivdnet": 7}, {"phantom": 5, "ivdnet": 8}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "phantom"], "NAME=FOLDER"),
        (["--data", "a=b", "--seeds", "42,x"], "expected numbers"),
        (["recipes/mm_cascade_cls.yaml", "--data", "a=b"], "mm_cascade_cls by grade/"),
        (["--data", "a=b", "--set", "c:rounds=5"], "'c' is neither a data set nor a recipe here"),
        (["--data", "phantom=b", "--set", "phantom:rounds=5"], "'phantom' is a data set and a recipe"),
    ],
)
def test_wrong_words_are_said_before_anything_runs(words: list[str], message: str) -> None:
    result = CliRunner().invoke(consilium.cli, ["bench", "methods", "recipes/phantom.yaml", *words])

    assert message in str(result.exception)

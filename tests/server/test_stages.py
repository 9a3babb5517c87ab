"""A run in stages: what is learned goes on, what is paid adds up, a crash in between costs nothing."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient

from imaging.cohort import Cohort
from models.catalogue import build_model
from models.exported import Predictor
from models.flat import Flat
from privacy.accounting import Event, epsilon
from privacy.ledger import reading
from protocol.metrics import Tally
from protocol.recipe import EarlierStage, Evaluation, Head, Part, Privacy, Recipe, Secure, Training
from protocol.stages import stages_of
from protocol.update import Vectors
from server import app, checkpoint
from server.book import unflatten
from server.record import Round, SiteRound, read_record
from server.report import render
from tests.federation import Federation, cohorts, recipe
from tests.secure import SecureFederation, secure_recipe

MODEL = {"patch": 4, "size": 8, "depth": 1, "attention_heads": 2, "decoder_size": 8, "width": 4}
SCAN = Head("pretext", objective=Part("own"))
STAGED = recipe(
    model=Part("bm_mae", MODEL),
    rounds=2,
    training=Training(batch=8, rate=0.05, momentum=0.9, modality_dropout=0.3, flips=True),
    stages=(EarlierStage("pretrain", 2, {"scan": SCAN}, strategy=Part("fedadam")),),
)


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, cohorts(), monkeypatch)


def final(federation: Federation, run: str) -> Vectors:
    return checkpoint.load(federation.folder / run / "checkpoints").vectors


def same(left: Vectors, right: Vectors) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[g], right[g]) for g in left)


def stop_after(number: int, site: str = "") -> Callable[[int, SiteRound | Round], None]:
    def watch(now: int, news: SiteRound | Round) -> None:
        ended = isinstance(news, Round) if not site else isinstance(news, SiteRound) and news.site == site
        if now == number and ended:
            raise KeyboardInterrupt

    return watch


FUSING = recipe(
    heads={"grade": Head("classification", objective=Part("bce")), "mean": SCAN},
    model=Part("embed_fusion", {"channels": (4, 8)}),
    rounds=2,
    training=Training(batch=8, optimizer="adam", rate=0.05, weight_decay=0.1, frozen=("modality",)),
    evaluation=Evaluation(select="grade/auroc"),
    stages=(EarlierStage("outline", 1, STAGED.heads, training=Training(batch=8, rate=0.05)),),
)


def graded() -> dict[str, Cohort]:
    """The sites of `cohorts`; a slice is of grade 1 where its tumour is large, and south knows no grade."""
    found: dict[str, Cohort] = {}
    for site, each in cohorts().items():
        size = each.cases.targets["tumour"].flatten(1).mean(1)
        targets = each.cases.targets | {"grade": (size > size.median()).long()}
        knows = torch.full((len(size),), site != "south")
        labelled = each.cases.labelled | {"grade": knows}
        found[site] = replace(each, cases=replace(each.cases, targets=targets, labelled=labelled))
    return found


def encoders(kept: Vectors) -> Vectors:
    parameters = unflatten(kept).parameters
    return {group: parameters[group] for group in ("modality:flair", "modality:t1")}


def test_what_learns_from_vectors_leaves_their_encoders_as_outlines_have_taught_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and no site sends what it lacks; without `frozen` weight decay moves them."""
    federation = Federation(tmp_path, graded(), monkeypatch)

    def before_and_after(whole: Recipe, run: str) -> tuple[Vectors, Vectors]:
        with pytest.raises(KeyboardInterrupt):
            federation.run(whole, run, stop_after(2))
        before = final(federation, run)
        federation.run(whole, run)
        return encoders(before), encoders(final(federation, run))

    assert same(*before_and_after(FUSING, "run"))
    for number, ended in enumerate(read_record(federation.folder / "run").rounds, 1):
        groups = {each.site: set(each.groups) for each in ended.sites}
        assert groups["west"] > {"modality:flair", "modality:t1"}
        assert groups["south"] & {"modality:t1", "head:grade"} == set()
        assert ("head:tumour" in groups["south"]) == (number == 1)
    thawed = replace(FUSING, training=replace(FUSING.training, frozen=()))
    assert not same(*before_and_after(thawed, "mutant"))


def test_a_run_goes_through_its_stages(federation: Federation) -> None:
    record = federation.run(STAGED)

    assert record.status == "finished"
    assert [ended.number for ended in record.rounds] == [1, 2, 3, 4]
    assert [set(ended.scores["north"]) for ended in record.rounds] == [{"scan/loss"}] * 2 + [
        {"tumour/dice"}
    ] * 2
    assert "head:scan" in record.rounds[1].sites[0].groups
    assert "head:tumour" in record.rounds[2].sites[0].groups
    assert {name for found in record.subsets["north"].values() for name in found} == {
        "tumour/dice",
        "tumour/hd95_mm",
    }
    assert read_record(federation.folder / "run") == record
    page = render(record, STAGED, ())
    assert "4 of 4" in page
    assert "pretrain, rounds 1 to 2" in page


def test_the_exported_model_is_the_last_stage_s(federation: Federation) -> None:
    federation.run(STAGED)
    predictor = Predictor(STAGED, unflatten(final(federation, "run")).parameters)
    found = predictor.predict({"t1": torch.zeros(2, 1, 8, 8).numpy()})
    assert {head: values.shape for head, values in found.items()} == {"tumour": (2, 1, 8, 8)}


@pytest.mark.parametrize(
    ("number", "site"), [(1, ""), (2, "north"), (2, ""), (3, "north"), (3, ""), (4, "south")]
)
def test_a_run_stopped_anywhere_ends_in_the_same_bits(federation: Federation, number: int, site: str) -> None:
    """In a stage, at its very end, and in the first round of the next one."""
    straight = federation.run(STAGED, "straight")
    with pytest.raises(KeyboardInterrupt):
        federation.run(STAGED, "broken", stop_after(number, site))
    resumed = federation.run(STAGED, "broken")

    assert same(final(federation, "straight"), final(federation, "broken"))
    assert [ended.scores for ended in resumed.rounds] == [ended.scores for ended in straight.rounds]
    assert resumed.subsets == straight.subsets


def test_a_run_that_is_killed_as_the_next_stage_begins_goes_on_from_the_end_of_the_one_before(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.run(STAGED, "straight")
    with monkeypatch.context() as patch:
        patch.setattr(app, "carried", _killed)
        with pytest.raises(KeyboardInterrupt):
            federation.run(STAGED, "broken")
    federation.run(STAGED, "broken")

    assert same(final(federation, "straight"), final(federation, "broken"))


def _killed(*_: object) -> Vectors:
    raise KeyboardInterrupt


def test_the_mutant_that_begins_the_next_stage_untrained_is_caught(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.run(STAGED, "straight")
    monkeypatch.setattr(app, "carry", lambda vectors, layout, onto: None)
    federation.run(STAGED, "broken")

    assert not same(final(federation, "straight"), final(federation, "broken"))


def test_what_both_stages_have_goes_on_and_the_rest_begins_as_the_seed_drew_it(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[tuple[Vectors, Vectors]] = []
    honest: Callable[..., Vectors] = app.carried

    def noted(parameters: Vectors, *rest: Any) -> Vectors:
        started = honest(parameters, *rest)
        handed.append((parameters, started))
        return started

    monkeypatch.setattr(app, "carried", noted)
    federation.run(STAGED)
    ((before, after),) = handed
    first, last = (Flat(build_model(stage.recipe)) for stage in stages_of(STAGED))
    first.load(before)
    learned = {name: p.clone() for name, p in first.model.named_parameters()}
    drawn = {name: p.clone() for name, p in last.model.named_parameters()}
    last.load(after)
    names = {name for name in drawn if name in learned}

    assert {name.partition(".")[0] for name in names} == {"tokenizers", "encoder"}
    for name, parameter in last.model.named_parameters():
        assert torch.equal(parameter, learned[name] if name in names else drawn[name])
    assert any(not torch.equal(learned[name], drawn[name]) for name in names)


def test_the_best_model_is_one_of_the_last_stage(federation: Federation) -> None:
    """Also where an earlier one has the same head, and scores better."""
    before = EarlierStage("before", 2, {"tumour": STAGED.heads["tumour"], "scan": SCAN})
    record = federation.run(replace(STAGED, stages=(before,)))
    perfect = {"north": {"tumour/dice": Tally("dice", (1.0, 1.0))}}
    book = app.Book(
        federation.folder / "run",
        replace(STAGED, stages=(before,)),
        replace(record, rounds=(replace(record.rounds[0], scores=perfect),)),
        lambda number, news: None,
    )
    assert book._best == -float("inf")


def test_a_site_without_budget_in_one_stage_is_asked_again_in_the_next(federation: Federation) -> None:
    record = federation.run(STAGED)
    out = replace(record.rounds[1].sites[0], status="spent")
    rounds = (record.rounds[0], replace(record.rounds[1], sites=(out,)))
    book = app.Book(
        federation.folder / "run", STAGED, replace(record, rounds=rounds), lambda number, news: None
    )

    assert book.spent(1) == {"north"}
    assert book.spent(3) == set()


@pytest.mark.slow
def test_the_tracked_run_has_the_rounds_of_all_stages(federation: Federation) -> None:
    """Stopped at the boundary, taken up again: one run, and the model of the last stage."""
    with pytest.raises(KeyboardInterrupt):
        federation.run(STAGED, "run", stop_after(2), tracking="")
    federation.run(STAGED, "run", tracking="")
    client = MlflowClient(f"sqlite:///{federation.folder / 'mlflow.db'}")
    (experiment,) = (each for each in client.search_experiments() if each.name == "tiny")
    runs = client.search_runs([experiment.experiment_id], "tags.mlflow.runName = 'run'")
    assert len(runs) == 1
    steps = client.get_metric_history(runs[0].info.run_id, "round")
    assert sorted(each.step for each in steps) == [1, 2, 3, 4]
    assert {"validation/scan/loss", "validation/tumour/dice"} <= {
        name.removesuffix("/mean").removesuffix("/overall") for name in runs[0].data.metrics
    }


def test_what_a_site_keeps_for_itself_begins_anew(federation: Federation) -> None:
    """Fine-tuning with private norms: nothing of the first stage's memory has their size."""
    whole = replace(
        STAGED, strategy=Part("fedbn"), stages=(replace(STAGED.stages[0], strategy=Part("scaffold")),)
    )
    federation.run(whole, "straight")
    with pytest.raises(KeyboardInterrupt):
        federation.run(whole, "broken", stop_after(3))
    federation.run(whole, "broken")

    assert same(final(federation, "straight"), final(federation, "broken"))
    folder = federation.folder / "straight" / "sites" / "north"
    assert sorted(path.name for path in (folder / "straight" / "pretrain").iterdir()) == [
        f"round-00000{number}.safetensors" for number in (1, 2)
    ]


@pytest.mark.slow
def test_the_coordinator_learns_sums_alone_in_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as in the clear, to the step of the integers that are summed."""
    whole = secure_recipe(model=STAGED.model, stages=(EarlierStage("pretrain", 1, {"scan": SCAN}),))
    secured = SecureFederation(tmp_path, monkeypatch)
    record = secured.run(whole, "masked")
    secured.run(replace(whole, secure=Secure()), "clear")

    assert [site.status for ended in record.rounds for site in ended.sites] == ["accepted"] * 10
    found, expected = final(secured, "masked"), final(secured, "clear")
    assert found.keys() == expected.keys()
    for name, vector in expected.items():
        torch.testing.assert_close(found[name], vector, atol=1e-4, rtol=0)


# -- Privacy ---------------------------------------------------------------------------------------

PRIVATE = replace(
    STAGED,
    privacy=Privacy(epsilon=9.0, delta=1e-3, sampling_rate=1.0),
    training=Training(batch=8, steps=2),
    stages=(replace(STAGED.stages[0], epsilon=4.0),),
)


def private_run(federation: Federation, whole: Recipe = PRIVATE) -> list[SiteRound]:
    record = federation.run(whole)
    return [next(site for site in ended.sites if site.site == "north") for ended in record.rounds]


def test_what_a_patient_pays_adds_up_over_the_stages(federation: Federation) -> None:
    rounds = private_run(federation)

    assert [each.status for each in rounds] == ["accepted"] * 4
    events = [Event(each.noise_multiplier or 0.0, 1.0, 2) for each in rounds]
    for number, each in enumerate(rounds, 1):
        assert each.epsilon == pytest.approx(epsilon(events[:number], 1e-3), rel=1e-9)
        assert 0 <= (each.epsilon or 0) - (each.epsilon_pld or 0) <= 0.012
    assert 3.9 < (rounds[1].epsilon or 0) <= 4.0
    assert 8.8 < (rounds[3].epsilon or 0) <= 9.0
    with reading(federation.settings("run", "north").books) as ledger:
        assert [each.ask.round for each in ledger.reservations.values()] == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_mutant_that_forgets_the_earlier_stage_is_stopped_by_the_ledger(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It plans as if the whole budget were left; what was paid is in the ledger all the same."""
    monkeypatch.setattr(
        "client.spending._elsewhere",
        lambda ledger, patients, task: ledger.histories(patients, lambda each: each.ask.run != task.run),
    )
    record = federation.run(PRIVATE)
    assert len(record.rounds) == 3
    assert re.search(r"round 4 would exceed epsilon 9 .* \(spent", record.early)

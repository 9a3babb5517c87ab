"""Whole runs through the real server and site code, in process."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client import app, training
from client.app import ANSWERS, Answer
from client.settings import Settings
from client.site import Site
from client.training import train as honest_train
from models.catalogue import build_model, build_objectives
from models.objectives import total_loss
from protocol.claim import claim
from protocol.errors import BudgetError, CheckpointError, DataError, QuorumError, SettingsError
from protocol.messages import Reply, Task
from protocol.recipe import Evaluation, Part, Privacy, Recipe, Roster, Training
from protocol.update import Vectors
from server import checkpoint, rounds
from server.app import member_of
from server.application import logged, note
from server.book import unflatten
from server.record import CONDUCTOR, LOG, Round, SiteRound, read_record
from tests.federation import SITES, Federation, cohort, cohorts, recipe


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, cohorts(), monkeypatch)


def _final(federation: Federation, run: str = "run") -> dict[str, torch.Tensor]:
    return checkpoint.load(federation.folder / run / "checkpoints").vectors


def _same(left: Vectors, right: Vectors) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[g], right[g]) for g in left)


def test_a_run_learns_and_is_written_down(federation: Federation) -> None:
    record = federation.run(recipe(rounds=6))
    assert record.status == "finished"
    assert [r.number for r in record.rounds] == [1, 2, 3, 4, 5, 6]
    losses = [sum(s.loss or 0 for s in r.sites) for r in record.rounds]
    assert losses[-1] < losses[0]
    sent = {s.site: set(s.groups) for s in record.rounds[0].sites}
    everybody = {"shared", "head:tumour", "modality:flair"}
    assert sent == {
        "north": everybody | {"modality:t1"},
        "south": everybody,
        "west": everybody | {"modality:t1"},
    }
    assert set(record.subsets["north"]) == {"flair", "t1", "flair+t1"}
    assert set(record.subsets["south"]) == {"flair"}
    assert read_record(federation.folder / "run") == record


def test_fedavg_is_the_plain_loop(federation: Federation) -> None:
    """An independent loop over state_dicts, with the sites' own batches, gives the same parameters."""
    plain = recipe(training=Training(batch=8, rate=0.05), rounds=2, evaluation=Evaluation(every=2))
    federation.run(plain)
    found = unflatten(_final(federation)).parameters
    expected = _by_hand(federation, plain)
    assert found.keys() == expected.keys()
    for group, vector in expected.items():
        torch.testing.assert_close(found[group], vector, rtol=1e-5, atol=1e-6)


def _by_hand(federation: Federation, plain: Recipe) -> Vectors:
    model, objectives = build_model(plain), build_objectives(plain)
    here = {name: p.detach().clone() for name, p in model.named_parameters()}
    for number in (1, 2):
        sums = {name: torch.zeros_like(p) for name, p in here.items()}
        weights = dict.fromkeys(here, 0)
        for site, held in federation.held.items():
            model.load_state_dict(here)
            sgd = torch.optim.SGD(model.parameters(), 0.05)
            rows = held.rows("train")
            for batch_rows in training.shuffled(rows, plain.training, (plain.seed, site), number):
                batch = held.cases.map(lambda x, r=batch_rows: x[r])
                sgd.zero_grad()
                total_loss(model(batch), batch, plain.heads, objectives).backward()
                sgd.step()
            for name, parameter in model.named_parameters():
                count = held.counts("train").get(model.group_of(name), 0)
                sums[name] += count * parameter.detach()
                weights[name] += count
        here = {name: sums[name] / weights[name] for name in here}
    members: dict[str, list[torch.Tensor]] = {}
    for name, _ in model.named_parameters():
        members.setdefault(model.group_of(name), []).append(here[name].flatten())
    return {group: torch.cat(parts) for group, parts in members.items()}


def _stop_after(number: int, site: str = "") -> object:
    def watch(now: int, news: SiteRound | Round) -> None:
        ended = isinstance(news, Round) if not site else isinstance(news, SiteRound) and news.site == site
        if now == number and ended:
            raise KeyboardInterrupt

    return watch


STATEFUL = [
    Part("fedavg"),
    Part("fedavgm"),
    Part("fedadam"),
    Part("fedyogi"),
    Part("scaffold"),
    Part("fedbn"),
    Part("fedper"),
    Part("ditto"),
    Part("local"),
    Part("median"),
]


@pytest.mark.parametrize("strategy", STATEFUL, ids=lambda part: part.name)
@pytest.mark.parametrize("where", ["", "south"])
def test_a_resumed_run_ends_in_the_same_bits(federation: Federation, strategy: Part, where: str) -> None:
    """Stopped after round 2 was written down, or in its middle when north had already trained."""
    whole = recipe(strategy=strategy)
    straight = federation.run(whole, "straight")
    with pytest.raises(KeyboardInterrupt):
        federation.run(whole, "broken", _stop_after(2, where))
    assert read_record(federation.folder / "broken").status == "stopped"
    resumed = federation.run(whole, "broken")
    assert _same(_final(federation, "straight"), _final(federation, "broken"))
    assert [r.number for r in resumed.rounds] == [1, 2, 3]
    assert resumed.subsets == straight.subsets
    assert [r.scores for r in resumed.rounds] == [r.scores for r in straight.rounds]


def test_the_mutant_that_forgets_the_moments_is_caught(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recipe(strategy=Part("fedadam"))
    federation.run(whole, "straight")
    with pytest.raises(KeyboardInterrupt):
        federation.run(whole, "broken", _stop_after(2))
    honest = checkpoint.load

    def forgetful(folder: Path) -> checkpoint.Checkpoint:
        found = honest(folder)
        zeroed = {k: torch.zeros_like(v) if k.startswith("memory/") else v for k, v in found.vectors.items()}
        return checkpoint.Checkpoint(found.round, zeroed, found.facts)

    monkeypatch.setattr(checkpoint, "load", forgetful)
    federation.run(whole, "broken")
    monkeypatch.setattr(checkpoint, "load", honest)
    assert not _same(_final(federation, "straight"), _final(federation, "broken"))


def test_a_finished_run_resumes_to_itself(federation: Federation) -> None:
    record = federation.run(recipe())
    before = _final(federation)
    again = federation.run(recipe())
    assert _same(before, _final(federation))
    assert again.rounds == record.rounds


def test_a_checkpoint_of_another_run_is_refused(federation: Federation) -> None:
    federation.run(recipe(rounds=1), "one")
    federation.run(recipe(rounds=1), "two")
    (federation.folder / "one" / "checkpoints").rename(federation.folder / "three-checkpoints")
    (federation.folder / "two" / "checkpoints").rename(federation.folder / "one" / "checkpoints")
    with pytest.raises(CheckpointError, match="of run 'two', not 'one'"):
        federation.run(recipe(rounds=1), "one")


def test_what_stands_in_an_absent_place_changes_nothing(federation: Federation) -> None:
    federation.run(recipe(), "clean")
    for held in federation.held.values():
        for column, modality in enumerate(held.modalities):
            held.cases.inputs[modality][~held.cases.present[:, column]] = float("nan")
    federation.run(recipe(), "dirty")
    assert _same(_final(federation, "clean"), _final(federation, "dirty"))
    clean, dirty = (read_record(federation.folder / run) for run in ("clean", "dirty"))
    assert clean.subsets == dirty.subsets
    assert [r.scores for r in clean.rounds] == [r.scores for r in dirty.rounds]


@pytest.mark.parametrize("model", ["parallel_unet", "encoders_unet", "early_fusion_unet"])
def test_a_group_that_nobody_owns_keeps_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    alone = Federation(tmp_path, {"south": cohort("south", 9)}, monkeypatch)
    whole = recipe(model=Part(model, {"channels": (4, 8)}))
    with pytest.raises(KeyboardInterrupt):
        alone.run(whole, watch=_stop_after(1, "south"))
    start = unflatten(_final(alone)).parameters
    alone.run(whole)
    end = unflatten(_final(alone)).parameters
    unowned = {g for g in start if g == "modality:t1"}
    assert all(torch.equal(start[g], end[g]) for g in unowned)
    assert not torch.equal(start["shared"], end["shared"])


def _breaks(site_name: str, error: Exception) -> object:
    def train(site: Site, task: Task) -> Reply:
        if site.settings.site == site_name:
            raise error
        return honest_train(site, task)

    return train


def test_the_run_goes_on_without_a_site_that_fails(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWERS, "train", _breaks("south", DataError("no such folder")))
    record = federation.run(recipe(roster=Roster(quorum=2)))
    assert record.status == "finished"
    told = {s.site: (s.status, s.reason) for s in record.rounds[0].sites}
    assert told["south"] == ("failed", "DataError: no such folder")
    assert told["north"][0] == told["west"][0] == "accepted"


def test_a_strangers_message_stays_at_the_site(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWERS, "train", _breaks("south", ValueError("patient Jane Doe")))
    record = federation.run(recipe(rounds=1))
    (south,) = (s for s in record.rounds[0].sites if s.site == "south")
    assert south.reason == "ValueError: the site's own log says more"


def test_an_errors_paths_stay_at_the_site(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(ANSWERS, "train", _breaks("south", SettingsError("/pacs/Doe, Jane/key: unreadable")))
    record = federation.run(recipe(rounds=1))
    (south,) = (s for s in record.rounds[0].sites if s.site == "south")
    assert south.reason == "SettingsError: <path>: unreadable"
    assert "Jane" in caplog.text
    monkeypatch.setattr(app, "without_paths", str)
    (south, *_) = (s for s in federation.run(recipe(rounds=1), "mutant").rounds[0].sites if s.site == "south")
    assert "Jane" in south.reason


def test_below_quorum_the_run_stops_where_it_can_go_on(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recipe(roster=Roster(quorum=3))
    federation.run(whole, "straight")
    with pytest.raises(KeyboardInterrupt):
        federation.run(whole, "broken", _stop_after(1))
    monkeypatch.setitem(ANSWERS, "train", _breaks("south", DataError("disk unplugged")))
    with pytest.raises(
        QuorumError, match=r"2 updates accepted, quorum is 3 \(south failed: DataError: disk unplugged"
    ):
        federation.run(whole, "broken")
    assert read_record(federation.folder / "broken").status == "failed"
    monkeypatch.setitem(ANSWERS, "train", honest_train)
    federation.run(whole, "broken")
    assert _same(_final(federation, "straight"), _final(federation, "broken"))


def _spends_out(after: int, *sites: str) -> Answer:
    def train(site: Site, task: Task) -> Reply:
        if task.round > after and site.settings.site in sites:
            raise BudgetError("over")
        return honest_train(site, task)

    return train


def test_a_run_whose_sites_have_spent_their_budgets_is_finished_with_what_was_learned(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = federation.run(recipe(rounds=2, evaluation=Evaluation()), "short")
    monkeypatch.setitem(ANSWERS, "train", _spends_out(2, "north", "south"))
    record = federation.run(recipe(rounds=5, roster=Roster(quorum=2), evaluation=Evaluation()), "spent")
    assert (record.status, len(record.rounds)) == ("finished", 2)
    assert record.early.startswith("the sites' privacy budgets are spent: 1 updates accepted, quorum is 2")
    assert _same(_final(federation, "short"), _final(federation, "spent"))
    assert record.subsets == short.subsets
    for told in ("report.html", "model-card.md"):
        assert "budgets are spent" in (federation.folder / "spent" / told).read_text()


@pytest.mark.parametrize(("after", "spent", "broken"), [(0, SITES, ()), (1, ("north",), ("south", "west"))])
def test_a_run_with_nothing_to_show_or_with_sites_that_fail_has_failed(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    spent: tuple[str, ...],
    broken: tuple[str, ...],
) -> None:
    spends = _spends_out(after, *spent)

    def train(site: Site, task: Task) -> Reply:
        if task.round > after and site.settings.site in broken:
            raise DataError("disk unplugged")
        return spends(site, task)

    monkeypatch.setitem(ANSWERS, "train", train)
    with pytest.raises(QuorumError):
        federation.run(recipe(roster=Roster(quorum=2)))
    assert read_record(federation.folder / "run").status == "failed"


def test_a_run_that_lacks_a_quorum_for_another_reason_is_not_called_spent(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: whatever the reason, the run is finished."""
    monkeypatch.setattr(rounds, "_out_of_budget", lambda plan, book: True)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_run_with_nothing_to_show_or_with_sites_that_fail_has_failed(
            federation, monkeypatch, 1, ("north",), ("south", "west")
        )


def test_a_poisoned_update_is_refused_and_the_others_count(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(site: Site, task: Task) -> Reply:
        reply = honest_train(site, task)
        if site.settings.site == "south" and reply.update is not None:
            reply.update.deltas["shared"][0] = float("nan")
        return reply

    monkeypatch.setitem(ANSWERS, "train", poisoned)
    record = federation.run(recipe())
    (south,) = (s for s in record.rounds[0].sites if s.site == "south")
    assert south.status == "refused"
    assert "NaN" in south.reason
    assert all(bool(torch.isfinite(v).all()) for v in _final(federation).values())


def _counts_who_was_drawn(site: Site, task: Task) -> Reply:
    """A site whose update says how many cases this round's steps read: all but one."""
    reply = honest_train(site, task)
    if site.settings.site != "south" or reply.update is None:
        return reply
    return replace(reply, update=replace(reply.update, counts={g: n - 1 for g, n in site.owned.items()}))


def test_denominators_come_from_the_roster_and_not_from_the_round(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWERS, "train", _counts_who_was_drawn)
    record = federation.run(recipe(rounds=1))
    told = {s.site: (s.status, s.reason) for s in record.rounds[0].sites}
    assert told["south"][0] == "refused"
    assert "are not those declared at the start of the run" in told["south"][1]
    assert told["north"][0] == told["west"][0] == "accepted"


def test_a_coordinator_that_divides_by_what_a_reply_says_is_caught(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.admission._right_counts", lambda update, declared: None)
    with pytest.raises(AssertionError):
        test_denominators_come_from_the_roster_and_not_from_the_round(federation, monkeypatch)


PRIVATE = Privacy(epsilon=8.0, clip_norm=1.0)


@pytest.mark.slow
def test_a_private_run_accounts_at_every_site_and_keeps_its_budget(federation: Federation) -> None:
    record = federation.run(recipe(privacy=PRIVATE, training=Training(batch=4, epochs=1)))
    for ended in record.rounds:
        for site in ended.sites:
            assert site.epsilon is not None
            assert site.epsilon_pld is not None
            assert 0 < site.epsilon <= 8.0
            assert 0 <= site.epsilon - site.epsilon_pld <= 0.012
    spent = [r.sites[0].epsilon or 0 for r in record.rounds]
    assert spent == sorted(spent)
    assert spent[-1] > 7.5


@pytest.mark.slow
def test_the_recipes_seed_does_not_reach_the_noise(federation: Federation) -> None:
    whole = recipe(privacy=PRIVATE, training=Training(batch=4), rounds=1)
    federation.run(whole, "one")
    torch.manual_seed(whole.seed)
    federation.run(whole, "two")
    assert not _same(_final(federation, "one"), _final(federation, "two"))


def test_a_site_whose_budget_is_spent_stops_and_the_run_goes_on(federation: Federation) -> None:
    tight = Privacy(epsilon=6.0, noise_multiplier=1.0, delta=1e-2)
    record = federation.run(recipe(privacy=tight, training=Training(batch=4, steps=2), rounds=4))
    told = [{s.site: s.status for s in r.sites} for r in record.rounds]
    # West has 4 training patients, all in every step: two rounds would cost 6.01.
    assert told == [
        {"north": "accepted", "south": "accepted", "west": "accepted"},
        {"north": "accepted", "south": "accepted", "west": "spent"},
        {"north": "accepted", "south": "accepted"},
        {"north": "accepted", "south": "accepted"},
    ]
    assert record.status == "finished"
    (west,) = (s for s in record.rounds[1].sites if s.site == "west")
    assert "would exceed epsilon 6 at delta 0.01 (spent 3.7" in west.reason


@pytest.mark.slow
def test_under_privacy_no_loss_leaves(federation: Federation) -> None:
    record = federation.run(recipe(privacy=PRIVATE, training=Training(batch=4, steps=1), rounds=1))
    assert all(site.loss is None for site in record.rounds[0].sites)


def test_pooled_data_train_alone_and_the_sites_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pooled(Federation):
        def settings(self, run: str, site: str) -> Settings:
            alone = super().settings(run, site)
            return replace(alone, partitions=tuple(SITES)) if site == "pooled" else alone

    federation = Pooled(tmp_path, cohorts(), monkeypatch)
    federation.sites = (*SITES, "pooled")
    record = federation.run(recipe(roster=Roster(train=("pooled",))))
    assert [[s.site for s in r.sites] for r in record.rounds] == [["pooled"]] * 3
    everybody = sum(len(c.rows("train")) for c in federation.held.values())
    assert record.rounds[0].sites[0].cases == everybody
    assert set(record.subsets) == set(record.rounds[0].scores) == set(SITES)


# -- Sites with a policy -------------------------------------------------------------------------


class Ruled(Federation):
    """The three sites, of which south has a policy."""

    policy = "recipes: {rules: [{}]}\nprivacy: {required: false}\ncounts: {least_patients: 1}\n"

    def settings(self, run: str, site: str) -> Settings:
        alone = super().settings(run, site)
        path = self.folder / "policy.yaml"
        path.write_text(self.policy)
        return replace(alone, policy=path) if site == "south" else alone


def test_the_run_goes_on_without_a_site_whose_policy_declines_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, SiteRound | Round]] = []
    federation = Ruled(tmp_path, cohorts(), monkeypatch)
    federation.policy = "recipes: {rules: [{strategy: [krum]}]}"
    record = federation.run(recipe(rounds=1), watch=lambda number, news: heard.append((number, news)))
    assert {s.site: s.status for s in record.rounds[0].sites} == {"north": "accepted", "west": "accepted"}
    (south,) = (site for site in record.sites if site.site == "south")
    assert "recipes: 'tiny' fits no rule" in south.declined
    assert "south" not in record.subsets
    assert heard[0] == (0, SiteRound("south", "declined", south.declined))
    assert read_record(tmp_path / "run") == record


def test_a_run_that_too_many_policies_decline_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Ruled(tmp_path, cohorts(), monkeypatch)
    federation.policy = "nonsense"
    with pytest.raises(
        QuorumError, match=r"2 sites take part, quorum is 3 \(south: PolicyError: this site's"
    ):
        federation.run(recipe(roster=Roster(quorum=3)))


def test_a_policy_tightened_in_the_middle_of_a_run_is_heard_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Ruled(tmp_path, cohorts(), monkeypatch)

    def watch(number: int, news: SiteRound | Round) -> None:
        if number == 1 and isinstance(news, Round):
            (tmp_path / "policy.yaml").write_text("privacy: {required: true}\nrecipes: {rules: [{}]}")

    record = federation.run(recipe(), watch=watch)
    south = [site for ended in record.rounds for site in ended.sites if site.site == "south"]
    assert [site.status for site in south] == ["accepted", "declined", "declined"]
    assert "privacy.required" in south[1].reason


def test_a_modality_of_too_few_patients_is_not_asked_for_and_coarse_counts_are_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """South has flair in 6 training patients, west in one of 4: there it counts as absent."""

    class West(Ruled):
        def settings(self, run: str, site: str) -> Settings:
            alone = super().settings(run, "south")
            return replace(Federation.settings(self, run, site), policy=alone.policy)

    federation = West(tmp_path, cohorts(), monkeypatch)
    federation.policy = (
        "recipes: {rules: [{}]}\nprivacy: {required: false}\n"
        "counts: {least_patients: 1, least_contributors: 2, least_told: 2, told_in_steps_of: 5}\n"
    )
    record = federation.run(recipe(rounds=1))
    sent = {site.site: set(site.groups) for site in record.rounds[0].sites}
    assert all(site.status == "accepted" for site in record.rounds[0].sites)
    assert "modality:flair" in sent["south"]
    assert "modality:flair" not in sent["west"]
    assert all(site.cases % 5 == 0 for site in record.rounds[0].sites)
    assert all(count % 5 == 0 for site in record.sites for count in site.patterns.values())


def test_a_site_that_trains_a_group_of_one_patient_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.site.contributed", lambda cohort, least: cohort)
    with pytest.raises(AssertionError):
        test_a_modality_of_too_few_patients_is_not_asked_for_and_coarse_counts_are_the_weights(
            tmp_path, monkeypatch
        )


def test_a_run_that_is_conducted_is_not_conducted_twice(federation: Federation) -> None:
    folder = federation.folder / "run"
    with claim(folder / CONDUCTOR), pytest.raises(SettingsError, match="is at work here: stop it first"):
        federation.run(recipe())
    assert not (folder / "record.json").exists()


def test_a_run_that_nobody_watches_says_into_its_log_how_it_goes_and_why_it_ends(tmp_path: Path) -> None:

    @logged(tmp_path)
    def run() -> None:
        note(1, SiteRound("north", "late", "no reply within 5 s"))
        note(1, SiteRound("south", "accepted"))
        note(1, Round(1, (SiteRound("north", "late"), SiteRound("south", "accepted"))))
        raise QuorumError("too few")

    with pytest.raises(QuorumError):
        run()
    said = [json.loads(line)["message"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert said == [
        "round 1: north late: no reply within 5 s",
        "round 1 ended: 1 of 2 sites accepted",
        "ended early: QuorumError: too few",
    ]


def test_a_site_is_who_its_reply_is_from_whatever_its_description_says() -> None:
    summary = {"site": "south", "patients": {}, "cases": {}, "patterns": {}, "labels": {}}
    facts = {"summary": summary, "owned": {}, "usable": [], "leaves": {}, "version": "1"}
    assert member_of(Reply("north", "describe", "run", 0, facts=facts)).summary.site == "north"

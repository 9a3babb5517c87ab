"""D6 and C1 end to end: a site with an older ledger or log does not train, and both sides know."""

import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, Message

from client import app, books
from client.books import require_witnessed, written_down
from client.settings import Settings
from imaging.cohort import Cohort
from privacy import audit, ledger
from privacy.heads import Head, Heads, countersign, countersigned
from privacy.keys import COORDINATOR_KEY, FEDERATION, SITE_KEY, make_signer, signer
from privacy.ledger import Cap, spending_from
from protocol.errors import AdmissionError, PrivacyError, WireError
from protocol.messages import HEADS, WITNESS, Reply, Task, pack_task, unpack_reply
from server.record import Round
from server.witness import Witness, open_witness
from sim.inprocess import identify
from sim.run import introduce
from tests.federation import SITES, Federation, cohorts, recipe
from tests.privacy.test_ledger import EVENT, ask
from tests.zoo import forged_facts


@pytest.fixture
def north(tmp_path: Path) -> Settings:
    pins = introduce(tmp_path, ["north"])
    return Settings(
        "north", tmp_path, tmp_path / "sites" / "north", federation=pins, ledger=tmp_path / "books"
    )


def task(settings: Settings, number: int = 1) -> Task:
    return Task("train", "r", number, "recipe", "a", facts=witness(settings).facts("north"))


def witness(settings: Settings) -> Witness:
    found = open_witness(settings.data)
    assert found is not None
    return found


def one_round(settings: Settings, number: int) -> Reply:
    """A task checked, paid, answered, written down and noted by the coordinator."""
    asked = task(settings, number)
    require_witnessed(settings, asked)
    with spending_from(settings.books) as book:
        book.reserve(ask(number), book.patients("abc"), EVENT, [Cap(99, 1e-5, "")])
        book.release(ask(number), EVENT.steps, b"reply")
    reply = written_down(settings, asked, Reply("north", "train", "r", number))
    witness(settings).note("north", reply)
    return reply


def test_the_books_outlive_a_runs_folder_where_the_settings_say_so(north: Settings) -> None:
    one_round(north, 1)
    assert {path.name for path in north.books.iterdir()} >= {ledger.FILE, audit.FILE}
    assert north.books != north.state
    assert [path.name for path in north.state.iterdir()] == [SITE_KEY]


def test_rounds_go_on_while_the_books_are_whole(north: Settings) -> None:
    told = [one_round(north, number).facts[HEADS] for number in (1, 2, 3)]
    assert [word["ledger"][0] for word in told] == [3, 5, 7]
    assert [word["audit"][0] for word in told] == [1, 2, 3]
    public = make_signer(north.state / SITE_KEY).public
    assert audit.verify(north.books, public, Head(*told[-1]["audit"])).counter == 3
    entries = list(audit.read(north.books))
    assert entries[2]["asked"]["witness"]["audit"] == list(told[1]["audit"])
    assert {entry["decided"] for entry in entries} == {"answered"}


@pytest.mark.parametrize(("name", "book"), [(ledger.FILE, "ledger"), (audit.FILE, "audit")])
def test_an_older_copy_is_refused_by_both_sides(north: Settings, name: str, book: str) -> None:
    one_round(north, 1)
    shutil.copy(north.books / name, north.data / "backup")
    one_round(north, 2)
    (north.books / name).unlink()
    shutil.copy(north.data / "backup", north.books / name)
    with pytest.raises(PrivacyError, match=rf"the {book} here lacks entry .*Restore the newest copy"):
        require_witnessed(north, task(north, 3))
    careless = written_down(north, Task("train", "r", 3, "recipe"), Reply("north", "train", "r", 3))
    with pytest.raises(AdmissionError, match=rf"the {book} of site 'north' went back"):
        witness(north).note("north", careless)


def test_a_ledger_that_is_gone_is_refused(north: Settings) -> None:
    one_round(north, 1)
    (north.books / ledger.FILE).unlink()
    with pytest.raises(PrivacyError, match="the ledger here lacks entry 3"):
        require_witnessed(north, task(north, 2))


def test_a_site_that_has_lost_its_key_does_nothing_and_makes_no_other(north: Settings) -> None:
    one_round(north, 1)
    north.signing_key.unlink()
    identify()
    message = Message(pack_task(task(north, 2)), 2, "train")
    reply = unpack_reply(app.answer(message, north))
    assert reply.error is not None
    assert reply.error[0] == "SettingsError"
    assert "cannot use this key (No such file or directory): restore it" in reply.error[1]
    assert not north.signing_key.exists()
    assert ledger.head(north.books).counter == 3  # of round 1


def test_a_word_that_is_not_the_coordinators_is_refused(north: Settings) -> None:
    one_round(north, 1)
    heads = {"ledger": Head(), "audit": Head()}
    for key in (make_signer(north.state / SITE_KEY), make_signer(north.data / "stranger.key")):
        forged = Task("train", "r", 2, "recipe", facts={WITNESS: countersign(key, "north", heads)})
        with pytest.raises(PrivacyError, match="does not carry the coordinator's signature"):
            require_witnessed(north, forged)
    right = countersign(make_signer(north.data / COORDINATOR_KEY), "north", heads)
    require_witnessed(north, Task("train", "r", 2, "recipe", facts={WITNESS: right}))


def test_a_refusal_is_answered_and_written_down_with_its_reason(north: Settings) -> None:
    one_round(north, 1)
    (north.books / ledger.FILE).unlink()
    identify()
    message = Message(pack_task(task(north, 2)), 2, "train")
    reply = unpack_reply(app.answer(message, north))
    assert reply.error is not None
    assert reply.error[0] == "PrivacyError"
    last = list(audit.read(north.books))[-1]
    assert last["decided"] == "refused"
    assert last["why"].startswith("PrivacyError: the ledger here lacks entry 3")
    assert last["left"]["kind"] == "error"


def test_a_message_that_is_no_task_is_written_down_too(north: Settings) -> None:
    identify()
    one_round(north, 1)
    forged = forged_facts(pack_task(task(north, 2)))
    unreadable = [name for name in forged if name.startswith(("text:", "version:", "records:"))]
    for number, name in enumerate(unreadable, start=2):
        with pytest.raises(WireError):
            app.answer(Message(forged[name], 2, "train"), north)
        *_, last = audit.read(north.books)
        assert (last["n"], last["asked"]["kind"], last["decided"]) == (number, "unreadable", "refused")
        assert last["why"]


def test_what_a_stranger_makes_us_say_does_not_fill_the_log(north: Settings) -> None:
    identify()
    content = pack_task(task(north))
    content["vectors"] = ArrayRecord({"g" * 10**6: Array("object", (1,), "none", b"")})
    with pytest.raises(WireError):
        app.answer(Message(content, 2, "train"), north)
    assert (north.books / audit.FILE).stat().st_size < 5000


def test_a_reply_that_cannot_be_written_down_does_not_leave(
    north: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    identify()
    monkeypatch.setitem(app.ANSWERS, "describe", lambda site, task: Reply("north", "describe", "r", 0))
    monkeypatch.setattr(app, "open_site", lambda settings, recipe: None)
    monkeypatch.setattr(audit.os, "fsync", full)
    reply = unpack_reply(app.answer(Message(pack_task(Task("describe", "r", 0, "x")), 2, "query"), north))
    assert reply.error is not None
    assert "No space left on device" in reply.error[1]


def test_a_really_full_disk_costs_replies_and_no_line(
    north: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    north.books.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(north.books)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs rights that this machine does not give")
    try:
        identify()
        one_round(north, 1)
        monkeypatch.setitem(app.ANSWERS, "describe", lambda site, task: Reply("north", "describe", "r", 0))
        monkeypatch.setattr(app, "open_site", lambda settings, recipe: None)
        replies = []
        with (north.books / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        for _ in range(40):
            message = Message(pack_task(Task("describe", "r", 0, "x")), 2, "query")
            replies.append(unpack_reply(app.answer(message, north)))
        assert "No space left on device" in (replies[-1].error or ("", ""))[1]
        (north.books / "filler").unlink()
        last = Head(*one_round(north, 2).facts[HEADS]["audit"])
        public = signer(north.signing_key).public
        assert audit.verify(north.books, public, last) == last
        assert last.counter == 2 + sum(HEADS in reply.facts for reply in replies)
    finally:
        subprocess.run(["umount", str(north.books)], check=True)


def test_without_a_federation_nothing_is_written(tmp_path: Path) -> None:
    alone = Settings("north", tmp_path, tmp_path / "state")
    reply = Reply("north", "train", "r", 1)
    require_witnessed(alone, Task("train", "r", 1, "x", facts={WITNESS: "anything"}))
    assert books.written_down(alone, Task("train", "r", 1, "x"), reply) is reply
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / FEDERATION).exists()


class Keyed(Federation):
    """Sites with keys and books that outlive a run."""

    def settings(self, run: str, site: str) -> Settings:
        pins = introduce(self.folder / run, self.sites)
        return replace(super().settings(run, site), federation=pins)


def test_a_whole_run_is_witnessed_to_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Keyed(tmp_path, cohorts(), monkeypatch)
    record = federation.run(recipe(rounds=2))
    assert all(site.status == "accepted" for ended in record.rounds for site in ended.sites)
    for site in SITES:
        settings = federation.settings("run", site)
        word = countersigned_by(tmp_path / "run", site)
        last = audit.verify(settings.books, make_signer(settings.state / SITE_KEY).public, word["audit"])
        assert last == word["audit"]
        kinds = [entry["asked"]["kind"] for entry in audit.read(settings.books)]
        assert kinds == ["describe", *["train", "evaluate"] * 2, "evaluate"]


def test_a_site_whose_log_was_cut_stops_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Keyed(tmp_path, cohorts(), monkeypatch)

    def cut(number: int, news: object) -> None:
        if isinstance(news, Round) and number == 1:
            (federation.settings("run", "west").books / audit.FILE).unlink()

    record = federation.run(recipe(rounds=2), watch=cut)
    (west,) = (site for site in record.rounds[1].sites if site.site == "west")
    assert west.status == "failed"
    assert "the audit here lacks entry 3" in west.reason
    assert {s.site for s in record.rounds[1].sites if s.status == "accepted"} == {"north", "south"}
    assert "west" not in record.rounds[1].scores


class Lasting(Federation):
    """Sites and a coordinator whose keys, books and memory are those of all runs."""

    def __init__(self, folder: Path, held: Mapping[str, Cohort], patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, held, patch)
        self.coordinator = folder / "coordinator"
        self.config = {"coordinator": str(self.coordinator)}

    def settings(self, run: str, site: str) -> Settings:
        pins, state = introduce(self.coordinator, self.sites), self.coordinator / "sites" / site
        return replace(super().settings(run, site), state=state, federation=pins)


def test_a_coordinator_remembers_over_runs_and_finds_the_ledger_that_was_put_back_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Lasting(tmp_path, cohorts(), monkeypatch)
    books = federation.settings("first", "west").books
    federation.run(recipe(rounds=1), "first")
    first = countersigned_by(federation.coordinator, "west")
    shutil.copytree(books, tmp_path / "backup")
    second = federation.run(recipe(rounds=1), "second")
    assert all(site.status == "accepted" for site in second.rounds[0].sites)
    assert countersigned_by(federation.coordinator, "west")["audit"].counter == 2 * first["audit"].counter
    shutil.rmtree(books)
    shutil.copytree(tmp_path / "backup", books)
    third = federation.run(recipe(rounds=1), "third")
    told = {site.site: site for site in third.rounds[0].sites}
    assert told["west"].status == "failed"
    assert "the audit here lacks entry" in told["west"].reason
    assert {name for name, site in told.items() if site.status == "accepted"} == {"north", "south"}


def countersigned_by(folder: Path, site: str) -> Heads:
    found = open_witness(folder)
    assert found is not None
    heads = countersigned(make_signer(folder / COORDINATOR_KEY).public, site, found.facts(site)[WITNESS])
    assert heads is not None
    return heads


@pytest.mark.parametrize(("name", "book"), [(ledger.FILE, "ledger"), (audit.FILE, "audit")])
def test_a_site_that_does_not_compare_its_books_is_caught(
    north: Settings, monkeypatch: pytest.MonkeyPatch, name: str, book: str
) -> None:
    monkeypatch.setattr(getattr(books, book), "stands", lambda *where: True)
    with pytest.raises(pytest.fail.Exception):
        test_an_older_copy_is_refused_by_both_sides(north, name, book)

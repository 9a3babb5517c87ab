"""`consilium site`: what a hospital asks its own machine."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from client.cli import POINTS, accounts, past, site
from privacy import audit
from privacy.accounting import Event, epsilon
from privacy.keys import FEDERATION, SITE_KEY, Pins, make_signer, write_pins
from privacy.ledger import FILE, Cap, reading, spending_from
from protocol.errors import PrivacyError, SettingsError
from server.witness import FILE as WITNESS_FILE
from tests.client.test_books import north, one_round  # noqa: F401 - `north` is a fixture
from tests.privacy.test_ledger import ask

EVENT, DELTA = Event(4.0, 1.0, 2), 1e-5


def run(*words: object) -> Result:
    return CliRunner().invoke(site, [*map(str, words)], env={"COLUMNS": "160"}, catch_exceptions=True)


def said(result: Result) -> str:
    assert result.exit_code == 0, result.exception
    return result.output


def refused(result: Result) -> str:
    assert isinstance(result.exception, PrivacyError | SettingsError)
    return str(result.exception)


@pytest.fixture
def spent(tmp_path: Path) -> Path:
    with spending_from(tmp_path) as ledger:
        for number, names in enumerate(("abc", "abc", "cd"), 1):
            ledger.reserve(ask(number), ledger.patients(names), EVENT, [Cap(8.0, DELTA, "")])
            if number < 3:
                ledger.release(ask(number), EVENT.steps, b"reply")
    return tmp_path


def test_a_budget_is_spent_reserved_and_left_for_each_cohort(spent: Path) -> None:
    with reading(spent) as ledger:
        first, second = accounts(ledger)
    two, three = epsilon([EVENT] * 2, DELTA), epsilon([EVENT] * 3, DELTA)
    assert (first.patients, first.rounds, second.patients, second.rounds) == (3, 2, 2, 0)
    for each in (first, second):  # patient c is in both and has paid for all
        assert (each.spent, each.reserved) == (two, three - two)
        assert each.left == pytest.approx(8.0 - three)
    text = said(run("budget", spent))
    assert f"{two:.3f}" in text
    assert "1e-05" in text
    assert "add-or-remove one patient" in text


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_a_budget_is_drawn_over_time(spent: Path, suffix: str, start: bytes) -> None:
    path = spent / f"plot{suffix}"
    assert str(path.name) in said(run("budget", spent, "--plot", path))
    assert path.read_bytes().startswith(start)


def test_a_plot_of_another_kind_is_refused(spent: Path) -> None:
    assert "a .png or a .svg" in refused(run("budget", spent, "--plot", spent / "plot.pdf"))


def test_a_long_past_is_asked_about_at_a_few_instants(tmp_path: Path) -> None:
    with spending_from(tmp_path, lambda events, _: float(sum(e.steps for e in events))) as ledger:
        for number in range(1, 2 * POINTS):
            ledger.reserve(ask(number), ledger.patients("ab"), EVENT, [])
        (account,) = accounts(ledger)
        known = past(ledger, account)
    assert len(known) <= POINTS + 1
    assert known[-1][1] == 2 * (2 * POINTS - 1)


def test_where_no_ledger_is(tmp_path: Path) -> None:
    assert "there is no such file" in refused(run("budget", tmp_path))
    assert not (tmp_path / FILE).exists()


def test_a_whole_log_is_verified_and_shown(north) -> None:  # noqa: ANN001, F811
    for number in (1, 2):
        one_round(north, number)
    words = ("--site", "north", "--federation", north.federation, "--witness", north.data / WITNESS_FILE)
    assert "2 lines, each as it was written" in said(run("audit", "verify", north.books, *words))
    shown = said(run("audit", "show", north.books, "--last", "1"))
    assert "train of round 2 of r" in shown
    assert "round 1" not in shown


def test_a_log_that_was_cut_is_found_through_the_witness(north) -> None:  # noqa: ANN001, F811
    for number in (1, 2):
        one_round(north, number)
    log = north.books / audit.FILE
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    words = ("--site", "north", "--federation", north.federation)
    assert "do not show without --witness" in said(run("audit", "verify", north.books, *words))
    cut = run("audit", "verify", north.books, *words, "--witness", north.data / WITNESS_FILE)
    assert "line 2: is not what the coordinator has witnessed" in refused(cut)


def test_the_key_is_the_folders_own_or_the_federations(tmp_path: Path) -> None:
    audit.append(tmp_path / "north", make_signer(tmp_path / "north" / SITE_KEY), {})
    assert "1 lines" in said(run("audit", "verify", tmp_path / "north"))
    (tmp_path / "north" / SITE_KEY).unlink()
    assert "give --federation" in refused(run("audit", "verify", tmp_path / "north"))
    stranger = make_signer(tmp_path / "other").public
    write_pins(tmp_path / FEDERATION, Pins(stranger, {"north": stranger}))
    words = ("--federation", tmp_path / FEDERATION)
    assert "this site's signature" in refused(run("audit", "verify", tmp_path / "north", *words))


@pytest.mark.parametrize(
    ("text", "told"), [("{", "not a coordinator's"), ("{}", "nothing that 'x' has signed")]
)
def test_a_witness_that_is_none_is_said(tmp_path: Path, text: str, told: str) -> None:
    audit.append(tmp_path / "x", make_signer(tmp_path / "x" / SITE_KEY), {})
    (tmp_path / "w.json").write_text(text)
    assert told in refused(run("audit", "verify", tmp_path / "x", "--witness", tmp_path / "w.json"))

"""`consilium site ...`: what a hospital asks its own machine.

    site init                   make its folder and a policy to edit
    site join KIT|MEMBERSHIP    become a member of a federation (`client.enrol_cli`)
    site predict MODEL STUDY... a trained model on this hospital's own studies (`client.predict_cli`)
    site doctor                 is all well? The one command here that opens a connection
    site ingest SOURCE... --cohort NAME    from an archive's export to a cohort (`client.ingest_cli`)
    site budget FOLDER          what each cohort has paid, and what is left
    site audit verify|show FOLDER    whether the log is as it was written, and what it says
    site policy new|check|explain    what the hospital allows, and what a recipe would cost here

FOLDER is where the site's settings keep its books (`ledger`, else `state`).
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.enrol_cli import doctor, init, join
from client.ingest_cli import ingest
from client.policy_cli import policy
from client.predict_cli import predict_studies
from privacy.audit import read, verify
from privacy.heads import Head, signed
from privacy.keys import SITE_KEY, read_pins, signer
from privacy.ledger import Ledger, Reservation, Which, reading
from privacy.statement import ADJACENCY, UNIT
from protocol.errors import PrivacyError, SettingsError

Folder = Annotated[Path, typer.Argument(help="folder of the site's ledger and audit log")]
POINTS = 60
"""Instants of a cohort's past that a plot asks the accountant about."""

site = typer.Typer(
    help="A hospital's own machine: join, look after it, look into its books.", no_args_is_help=True
)
audit = typer.Typer(help="The site's log of what it was asked and what left.", no_args_is_help=True)
site.add_typer(audit, name="audit")
site.add_typer(policy, name="policy")
site.command()(init)
site.command()(join)
site.command()(doctor)
site.command()(ingest)
site.command("predict")(predict_studies)


@dataclass(frozen=True)
class Account:
    """What one cohort stands at: epsilons at `delta`; `budget` is the least of its latest caps."""

    cohort: str
    patients: int
    runs: int
    rounds: int
    spent: float
    reserved: float
    budget: float
    delta: float

    @property
    def left(self) -> float:
        """Epsilon that may still be spent."""
        return max(0.0, self.budget - self.spent - self.reserved)


@site.command()
def budget(
    folder: Folder,
    plot: Annotated[Path | None, typer.Option(help="also draw it over time, a .png or .svg")] = None,
) -> None:
    """Show what each cohort of patients has paid, has reserved, and may still spend."""
    with reading(folder) as ledger:
        found = list(accounts(ledger))
        if plot is not None:
            draw(ledger, found, plot)
    table = Table("cohort", "patients", "runs", "rounds", "spent", "reserved", "left", "budget", "delta")
    for each in found:
        numbers = (each.spent, each.reserved, each.left, each.budget)
        counts = (each.patients, each.runs, each.rounds)
        table.add_row(each.cohort[:8], *map(str, counts), *(f"{n:.3f}" for n in numbers), f"{each.delta:.3g}")
    console = Console()
    console.print(table)
    console.print(
        f"epsilon of the {UNIT} who has paid most, over all runs; adjacency: {ADJACENCY}.\n"
        "Cohorts overlap: a patient pays for every cohort that it is in, so rows do not add up."
    )
    if plot is not None:
        console.print(f"plot: {plot}")


@audit.command("verify")
def verify_log(
    folder: Folder,
    name: Annotated[str, typer.Option("--site", help="the site's name; by default the folder's")] = "",
    federation: Annotated[Path | None, typer.Option(help="the federation's file of public keys")] = None,
    witness: Annotated[Path | None, typer.Option(help="the coordinator's witness.json")] = None,
) -> None:
    """Check that every line of the log is as it was written, and that none is missing."""
    name = name or folder.resolve().name
    public = read_pins(federation).of(name) if federation else _own_key(folder)
    found = verify(folder, public, _witnessed(witness, name, public) if witness else Head())
    typer.echo(f"{found.counter} lines, each as it was written; head {found.hash[:16] or '-'}")
    if witness is None:
        typer.echo("lines cut off at the end do not show without --witness, the coordinator's witness.json")


@audit.command("show")
def show_log(
    folder: Folder, last: Annotated[int, typer.Option(help="how many lines, from the end")] = 20
) -> None:
    """Show who asked what, what was decided and why, and what left."""
    table = Table("line", "when", "asked", "decided", "left", "bytes", "sha256")
    for entry in list(read(folder))[-last:]:
        asked, left = entry["asked"], entry["left"]
        decided = f"{entry['decided']} {entry['why']}".strip()
        question = f"{asked['kind']} of round {asked['round']} of {asked['run']}"
        digest = left["sha256"][:8]
        table.add_row(
            str(entry["n"]), entry["at"], question, decided, left["kind"], str(left["bytes"]), digest
        )
    Console().print(table)


def accounts(ledger: Ledger) -> Iterator[Account]:
    """Yield where each cohort stands, in the order of their first reservations."""
    latest = {each.cohort: each for each in ledger.reservations.values()}
    for cohort, last in latest.items():
        patients = ledger.enrolled(cohort)
        own = [each for each in ledger.reservations.values() if each.cohort == cohort]
        least, delta = _cap(last)
        spent = ledger.spent(patients, delta, lambda each: each.taken is not None)
        yield Account(
            cohort,
            len(patients.pseudonyms),
            len({each.ask.run for each in own}),
            sum(each.taken is not None for each in own),
            spent,
            max(0.0, ledger.spent(patients, delta) - spent),
            least,
            delta,
        )


def draw(ledger: Ledger, found: list[Account], path: Path) -> None:
    """Draw each cohort's epsilon over time into `path`, as its suffix says."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that no other command needs

    if path.suffix not in {".png", ".svg"}:
        raise SettingsError(f"{path}: a plot is a .png or a .svg")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for each in found:
        times, epsilons = zip(*past(ledger, each), strict=True)
        (line,) = axes.step(
            times, epsilons, where="post", label=f"{each.cohort[:8]}, {each.patients} patients"
        )
        if each.budget < math.inf:
            axes.axhline(each.budget, color=line.get_color(), linestyle=":")
    axes.set(xlabel="time", ylabel=f"epsilon ({UNIT}; {ADJACENCY})", ylim=(0, None))
    axes.tick_params(axis="x", rotation=30)
    axes.legend(title="cohort; dotted: its budget")
    figure.savefig(path)


def past(ledger: Ledger, account: Account) -> list[tuple[datetime, float]]:
    """Return (time, epsilon) after at most `POINTS` of the ledger's reservations."""
    patients = ledger.enrolled(account.cohort)
    known = list(ledger.reservations.values())
    chosen = known[:: -(-len(known) // POINTS)]
    if chosen[-1] is not known[-1]:
        chosen.append(known[-1])
    return [(datetime.fromisoformat(r.at), ledger.spent(patients, account.delta, _until(r))) for r in chosen]


def _until(last: Reservation) -> Which:
    return lambda each: each.counter <= last.counter


def _cap(reservation: Reservation) -> tuple[float, float]:
    return min(reservation.caps, default=(math.inf, 1e-5))


def _own_key(folder: Path) -> bytes:
    path = folder / SITE_KEY
    if not path.exists():
        raise SettingsError(f"{path}: no key of the site there: give --federation and --site")
    return signer(path).public


def _witnessed(path: Path, name: str, public: bytes) -> Head:
    try:
        word = json.loads(path.read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError, AttributeError) as error:
        raise SettingsError(f"{path}: not a coordinator's witness.json ({error!r})") from error
    heads = signed(public, name, word)
    if heads is None:
        raise PrivacyError(f"{path}: holds nothing that '{name}' has signed with this key")
    return heads["audit"]

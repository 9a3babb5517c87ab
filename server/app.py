"""The coordinator as a Flower ServerApp: meet the sites, run the rounds, write the report.

The run folder says everything: a recipe and no checkpoint is a new run, a checkpoint is a
run to go on with. `run_config` only says where the folder is (Flower carries scalars).
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from platform import platform, python_version
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from models.catalogue import build_model
from models.flat import Flat, carry
from privacy.keys import signer
from protocol import files
from protocol.claim import claim
from protocol.errors import AdmissionError, CheckpointError, QuorumError, RecipeError
from protocol.groups import PRIVATE
from protocol.messages import Reply, Task
from protocol.recipe import SIGNED_FOR, Recipe, build, dump_recipe, parse_cached, recipe_hash
from protocol.stages import Stage, stage_at, stages_of
from protocol.update import Vectors
from server import checkpoint
from server.book import Book, Watch, read_rounds, unflatten
from server.record import CONDUCTOR, Round, RunRecord, SiteRound, SiteSummary, to_json
from server.roster import Member
from server.rounds import Plan, evaluate, run
from server.tracking import RUN_FILE, Tracker
from server.wire import Wire
from server.witness import open_witness
from strategies.base import State, Strategy
from strategies.catalogue import STRATEGIES

MEET_S = 120.0
SIGNATURE = "recipe.sig"
"""In the run folder, beside the recipe: a signature of its text, for sites that ask for one."""
_LIBRARIES = ("consilium", "flwr", "torch", "monai", "opacus", "mlflow", "numpy")


def build_app(watch: Watch) -> ServerApp:
    """Return a ServerApp that tells `watch` how the run goes."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        conduct(grid, dict(context.run_config), watch)

    return app


def conduct(grid: Grid, config: Mapping[str, object], watch: Watch) -> RunRecord:
    """Start the run in `config["folder"]`, or go on with it, and take it to its end.

    `config`: `folder`, `sites` (how many to wait for), `tracking` ("" SQLite in the folder's
    parent, "off", or a server's URI), `coordinator` (folder of what outlives its runs: its key, the
    federation's keys, the witness; by default the run's own).

    Raises `SettingsError` where another process conducts this run: two would count rounds twice.
    """
    folder = Path(str(config["folder"]))
    with claim(folder / CONDUCTOR):
        return _conduct(grid, folder, config, watch)


def _conduct(grid: Grid, folder: Path, config: Mapping[str, object], watch: Watch) -> RunRecord:
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe = parse_cached(text)
    wire = Wire(grid)
    witness = open_witness(Path(str(config.get("coordinator", folder))))
    plan = partial(Plan, folder.name, text=text, signature=signature_in(folder), witness=witness)
    plans: list[Plan] = []
    for stage in stages_of(recipe):
        members = meet(wire, stage, text, folder, int(str(config["sites"])))
        note_declined(members, recipe.roster.quorum, watch)
        strategy = build(STRATEGIES, stage.recipe.strategy, "strategy")
        require(strategy, stage.recipe, members)
        plans.append(plan(stage, strategy=strategy, members=members))
    state, done = restore(folder, plans[0])
    cohorts = tuple(member.summary for member in plans[-1].members)
    record = RunRecord(folder.name, text, _started(folder), cohorts, done, {}, environment())
    files.write_text(folder / "record.json", to_json(record))
    tracker = open_tracker(folder, recipe, record, str(config.get("tracking", "")))
    return attend(plans, wire, state, Book(folder, recipe, record, watch, tracker))


def attend(plans: Sequence[Plan], wire: Wire, state: State, book: Book) -> RunRecord:
    """Run all stages to the end; whatever ends it early is written down before it goes on its way."""
    try:
        state, plan = through(plans, wire, state, book), plans[-1]
        subsets = plan.recipe.evaluation.subsets
        book.conclude(evaluate(plan, wire, state, plan.stage.last, "test", subsets=subsets))
    except (KeyboardInterrupt, SystemExit):  # Flower makes the second of a signal
        book.finish("stopped")
        raise
    except Exception:
        book.finish("failed")
        raise
    book.finish("finished", state)
    return book.record


def through(plans: Sequence[Plan], wire: Wire, state: State, book: Book) -> State:
    """Take the run through the stages that are left; `state` is of the stage of `book`'s last round."""
    here = stage_at(parse_cached(plans[0].text), book.rounds_done)
    for plan in plans:
        if plan.stage.first < here.first:
            continue
        if plan.stage.first > here.first:
            state = plan.strategy.init(carried(state.parameters, here.recipe, plan))
            here = plan.stage
        state = run(plan, wire, state, book)
    return state


def meet(wire: Wire, stage: Stage, text: str, folder: Path, sites: int) -> list[Member]:
    """Ask every site what it has for a stage; all stages are asked about before the first begins."""
    number = stage.first if stage.first > 1 else 0
    question = Task("describe", folder.name, number, text, signature=signature_in(folder))
    return [member_of(reply) for reply in wire.meet(question, sites, MEET_S, stage.recipe.roster.quorum)]


def member_of(reply: Reply) -> Member:
    """Read what a site told of its cohort; `AdmissionError` where it is no such description.

    A site that declined owns nothing: it is never asked again, and the record says why.
    """
    if reply.error is not None:
        nobody = SiteSummary(reply.site, {}, {}, {}, {}, declined=reply.error[1])
        return Member(reply.site, {}, frozenset(), nobody)
    try:
        owned = {str(group): int(count) for group, count in reply.facts["owned"].items()}
        leaves = {str(what): str(how) for what, how in reply.facts["leaves"].items()}
        told: dict[str, Any] = {**reply.facts["summary"], "site": reply.site}  # whoever it says it is
        summary = SiteSummary(**told, leaves=leaves, version=str(reply.facts["version"]))
        return Member(reply.site, owned, frozenset(reply.facts["usable"]), summary)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"site '{reply.site}' does not describe its cohort as this version does ({error!r}): update it"
        raise AdmissionError(msg) from error


def note_declined(members: Sequence[Member], quorum: int, watch: Watch) -> None:
    """Tell who declined; `QuorumError` where too few are left to begin."""
    declined = [member.summary for member in members if member.summary.declined]
    for summary in declined:
        watch(0, SiteRound(summary.site, "declined", summary.declined))
    if len(members) - len(declined) < quorum:
        told = "; ".join(f"{summary.site}: {summary.declined}" for summary in declined)
        msg = f"{len(members) - len(declined)} sites take part, quorum is {quorum} ({told})"
        raise QuorumError(msg)


def require(strategy: Strategy, recipe: Recipe, members: Sequence[Member]) -> None:
    """Refuse a strategy that needs a site which is not among those that train."""
    known = sorted(member.site for member in members if member.owned)
    train = [site for site in known if site in recipe.roster.train or not recipe.roster.train]
    for site in strategy.needs:
        if site not in train:
            raise RecipeError(
                f"strategy: '{recipe.strategy.name}' learns from site '{site}', which does not train here; "
                f"name one of {', '.join(train) or 'none'}"
            )


def sign(folder: Path, recipe: Recipe, key: Path) -> None:
    """Put the signature of the folder's recipe beside it."""
    signature = signer(key).sign(SIGNED_FOR, dump_recipe(recipe).encode())
    files.write_text(folder / SIGNATURE, signature.hex())


def signature_in(folder: Path) -> str:
    """Return the signature that came with the run's recipe, hexadecimal; "" if none did."""
    path = folder / SIGNATURE
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def restore(folder: Path, plan: Plan) -> tuple[State, tuple[Round, ...]]:
    """Return the state to go on from and the rounds that led to it; for a new run the start of `plan`."""
    saved = folder / "checkpoints"
    if checkpoint.newest(saved) is None:
        return plan.strategy.init(initial_parameters(plan.recipe, plan.strategy)), ()
    found = checkpoint.load(saved)
    if found.facts["run"] != folder.name:
        msg = f"{saved} holds checkpoints of run '{found.facts['run']}', not '{folder.name}': move them back"
        raise CheckpointError(msg)
    return unflatten(found.vectors), read_rounds(folder, found.round)


def initial_parameters(recipe: Recipe, strategy: Strategy) -> Vectors:
    """Return the untrained model's groups that travel."""
    flat = Flat(build_model(recipe), strategy.local.private)
    return {group: vector for group, vector in flat.vectors.items() if group != PRIVATE}


def carried(parameters: Vectors, before: Recipe, plan: Plan) -> Vectors:
    """Return the start of a stage: what the stage `before` has learned of its network, the rest untrained."""
    local = build(STRATEGIES, before.strategy, "strategy").local
    layout = Flat(build_model(before), local.private).layout
    start = Flat(build_model(plan.recipe), plan.strategy.local.private)
    carry(parameters, layout, start)
    return {group: vector for group, vector in start.vectors.items() if group != PRIVATE}


def open_tracker(folder: Path, recipe: Recipe, record: RunRecord, uri: str) -> Tracker | None:
    """Start the tracking run, or go on with the one that the folder names."""
    if uri == "off":
        return None
    tracker = Tracker(uri or None, recipe.name, folder)
    known = folder / RUN_FILE
    before = json.loads(known.read_text(encoding="utf-8"))["run"] if known.exists() else None
    run_id = tracker.start(record.recipe, recipe_hash(recipe), record.sites, record.environment, before)
    files.write_text(known, json.dumps({"run": run_id}))
    return tracker


def environment() -> dict[str, str]:
    """Return versions of what shapes a result, and the commit where the code is a git checkout."""
    found = {"python": python_version(), "platform": platform()} | {n: version(n) for n in _LIBRARIES}
    return found | ({"commit": commit} if (commit := _commit()) else {})


def _commit() -> str:
    git = (
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    )
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - no input
    except (OSError, subprocess.CalledProcessError):
        return ""


def _started(folder: Path) -> str:
    known = folder / "record.json"
    if known.exists():
        return str(json.loads(known.read_text(encoding="utf-8"))["started"])
    return datetime.now(UTC).isoformat(timespec="seconds")

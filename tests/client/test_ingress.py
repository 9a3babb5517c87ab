"""A task that no honest server sends is refused before it costs anything, and says why."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st

from client.app import answer
from client.ingress import admit
from client.site import Site, open_site
from client.spending import history
from privacy.accounting import Event
from protocol.errors import ConsiliumError, PrivacyError, WireError
from protocol.messages import KINDS, Task, pack_task, unpack_reply
from protocol.recipe import Part, Privacy, Training, dump_recipe
from server.app import initial_parameters
from sim.inprocess import identify
from strategies.catalogue import STRATEGIES
from tests.federation import Federation, cohorts, recipe

WHOLE = recipe(privacy=Privacy(epsilon=8.0, noise_multiplier=2.0), training=Training(batch=4, steps=1))


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    return Federation(tmp_path, cohorts(), monkeypatch)


def opened(federation: Federation, whole: object = WHOLE) -> Site:
    return open_site(federation.settings("run", "south"), dump_recipe(whole))


def task(**changes: Any) -> Task:
    """What an honest server asks of south, which has no t1."""
    vectors = initial_parameters(WHOLE, STRATEGIES["fedavg"]())
    del vectors["modality:t1"]
    return replace(Task("train", "run", 1, dump_recipe(WHOLE), "a", vectors), **changes)


def with_shared(vector: torch.Tensor) -> Mapping[str, Any]:
    return {"vectors": task().vectors | {"shared": vector}}


SIZE = len(task().vectors["shared"])
HOSTILE: dict[str, tuple[type[ConsiliumError], Mapping[str, Any]]] = {
    "path for a name": (WireError, {"run": "../../elsewhere"}),
    "absolute path": (WireError, {"run": "/tmp/elsewhere"}),
    "hidden file": (WireError, {"run": ".ssh"}),
    "no name": (WireError, {"run": ""}),
    "round after the last": (WireError, {"round": WHOLE.rounds + 1}),
    "round before the first": (WireError, {"round": -1}),
    "private group": (PrivacyError, {"vectors": task().vectors | {"private": torch.zeros(3)}}),
    "group of others": (PrivacyError, {"vectors": initial_parameters(WHOLE, STRATEGIES["fedavg"]())}),
    "group of nobody": (PrivacyError, {"vectors": {"modality:dna": torch.zeros(3)}}),
    "received for others": (PrivacyError, {"received": {"control": {"modality:t1": torch.zeros(3)}}}),
    "one number": (WireError, with_shared(torch.zeros(1))),
    "one too many": (WireError, with_shared(torch.zeros(SIZE + 1))),
    "huge": (WireError, with_shared(torch.zeros(10**6))),
    "NaN": (WireError, with_shared(torch.full((SIZE,), float("nan")))),
    "infinity": (WireError, with_shared(torch.full((SIZE,), float("inf")))),
    "infinities that cancel": (
        WireError,
        with_shared(torch.tensor([float("inf"), -float("inf")] * SIZE)[:SIZE]),
    ),
    "NaN received": (WireError, {"received": {"control": {"shared": torch.full((SIZE,), float("nan"))}}}),
    "scores of training patients": (PrivacyError, {"kind": "evaluate", "facts": {"split": "train"}}),
    "scores of no split": (PrivacyError, {"kind": "evaluate", "facts": {}}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_task_is_refused(federation: Federation, name: str) -> None:
    kind, changes = HOSTILE[name]
    with pytest.raises(kind):
        admit(opened(federation), task(**changes))


def test_an_honest_task_passes(federation: Federation) -> None:
    site = opened(federation)
    for honest in (
        task(),
        task(kind="evaluate", facts={"split": "test"}),
        task(kind="describe", vectors={}, round=0),
    ):
        assert admit(site, honest) is honest


def test_a_sum_that_overflows_is_not_mistaken_for_poison(federation: Federation) -> None:
    admit(opened(federation), task(**with_shared(torch.full((SIZE,), 3e38))))


@given(st.text(max_size=20))
def test_a_name_that_passes_stays_inside_the_folder(name: str) -> None:
    site = Site.__new__(Site)
    object.__setattr__(site, "recipe", WHOLE)
    try:
        admit(site, Task("describe", name, 0, dump_recipe(WHOLE)))
    except WireError:
        return
    except AttributeError:
        pass  # the name has passed, and this site has nothing else to look at
    folder = Path("/state")
    assert (folder / name).resolve().parent == folder


def test_a_personal_model_is_refused_where_privacy_is_promised(federation: Federation) -> None:
    ditto = replace(WHOLE, strategy=Part("ditto"))
    with pytest.raises(PrivacyError, match="learns without noise"):
        admit(opened(federation, ditto), task())
    admit(opened(federation, replace(ditto, privacy=Privacy())), task())


def _asked(federation: Federation, changed: Task) -> tuple[str, str] | None:
    identify()
    message = Message(pack_task(changed), 2, KINDS[changed.kind])
    return unpack_reply(answer(message, federation.settings("run", "south"))).error


def _paid(federation: Federation) -> tuple[Event, ...]:
    return history(federation.settings("run", "south").books)


@pytest.mark.parametrize("name", ["NaN", "one number", "group of others", "path for a name"])
def test_what_is_refused_costs_no_privacy(federation: Federation, name: str) -> None:
    kind, changes = HOSTILE[name]
    # A group that is not the site's is stopped at the policy's door already, whatever the policy.
    wanted = "PolicyError" if name == "group of others" else kind.__name__
    assert (_asked(federation, task(**changes)) or ("", ""))[0] == wanted
    assert _paid(federation) == ()
    assert _asked(federation, task()) is None
    assert len(_paid(federation)) == 1


def test_the_mutant_that_admits_everything_is_caught(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stood here before: a hostile task reserved privacy first and failed, or did not fail, later."""
    monkeypatch.setattr("client.app.admit", lambda site, task: task)
    assert _asked(federation, task(**HOSTILE["NaN"][1])) is None
    assert len(_paid(federation)) == 1

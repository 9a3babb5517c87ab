"""Is this site fit to take part? One line a check, each failure with its remedy; nothing is told to anybody.

What it finds is for the hospital's own screen. It opens one connection to the coordinator, asks nothing of
it but the time, and shows no patient: of the data it says how many files or patients there are.
"""

import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from client.enrol import membership_of
from client.home import SiteHome
from client.machine import Machine, read_machine, settings_of
from client.policy import Policy, read_policy
from client.reach import reach
from imaging.pacs.fetch import connected
from imaging.pacs.settings import read_pacs
from imaging.sources import read_cohort
from privacy.certificates import read_certificate
from protocol.checks import Check, dated, disk, failed, note, ok, private
from protocol.errors import ConsiliumError
from protocol.recipe import Recipe

RESTORE = "restore it from a copy, or join anew under a new name"


def examine(home: SiteHome, recipe: Recipe | None = None, now: datetime | None = None) -> Iterator[Check]:
    """Look at everything that can be looked at; what cannot be read is a failed check, not an error.

    With a recipe, its reader reads the data; without, the folder is only looked into.
    """
    now = now or datetime.now(UTC)
    yield _versions()
    yield disk(home.folder)
    try:
        machine = read_machine(home)
    except ConsiliumError as error:
        yield failed("site.yaml", str(error), "consilium site join KIT, or correct the file")
        return
    yield ok("site.yaml", f"{machine.site} of {machine.federation}")
    yield _device(machine)
    yield private(home.key, RESTORE)
    yield private(home.auth_key, RESTORE)
    yield _policy(home.policy)
    yield _data(home, recipe)
    yield from archives(home.pacs)
    yield _membership(home, now)
    yield _proxy(machine)
    yield from _coordinator(home, machine, now)


def _versions() -> Check:
    names = ("consilium", "flwr", "torch")
    found = ", ".join(f"{name} {version(name)}" for name in names)
    return ok("versions", f"Python {platform.python_version()}, {found}")


def _device(machine: Machine) -> Check:
    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    has = ", ".join(cards) or "none"
    if machine.device == "cpu":
        return ok("GPU", f"{has}; not used, `device` is cpu")
    try:
        torch.empty(1, device=machine.device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts that it has it
        reason = str(error).splitlines()[0]
        return failed(
            "GPU", f"{has}; {machine.device}: {reason}", "its driver, or `device: cpu` in site.yaml"
        )
    return ok("GPU", f"{has}; used is {machine.device}")


def _policy(path: Path) -> Check:
    try:
        policy = read_policy(path)
    except ConsiliumError as error:
        return failed("policy", str(error), f"correct {path}, or move it away and `site policy new {path}`")
    if not _allows(policy):
        return note(
            "policy", "valid; it allows no recipe yet", "say under `recipes` what may be trained here"
        )
    return ok("policy", "valid")


def _allows(policy: Policy) -> bool:
    return bool(policy.recipes.hashes or policy.recipes.signers or policy.recipes.rules)


def _data(home: SiteHome, recipe: Recipe | None) -> Check:
    folder, remedy = settings_of(home).data, "correct `data` in site.yaml, or who may read the folder"
    try:
        entries = sum(1 for _ in folder.iterdir())
        if recipe is not None:
            patients = len(read_cohort(folder, recipe, None).patients)
            return ok("data", f"{patients} patients, as {recipe.name} reads them")
    except (OSError, ConsiliumError) as error:
        return failed("data", str(error), remedy)
    if not entries:
        return failed("data", f"{folder} is empty", remedy)
    return ok("data", f"{entries} entries; read by a recipe's reader with --recipe")


def archives(path: Path) -> Iterator[Check]:
    """Ask every PACS whether it hears this site."""
    if not path.exists():
        return
    try:
        archives = read_pacs(path)
    except ConsiliumError as error:
        yield failed("pacs.yaml", str(error), "correct the file; imaging/pacs/settings.py describes it")
        return
    for name, pacs in archives.items():
        try:
            with connected(pacs) as archive:
                yield ok(f"PACS {name}", archive.ping())
        except ConsiliumError as error:
            yield failed(f"PACS {name}", *_parts(str(error)))


def _parts(message: str) -> tuple[str, str]:
    """Return what is wrong, and the remedy, which stands behind the last colon with a space."""
    found, _, remedy = message.rpartition(": ")
    return (found, remedy) if found else (message, "correct pacs.yaml, or ask whoever runs the PACS")


def _membership(home: SiteHome, now: datetime) -> Check:
    try:
        membership = membership_of(home)
    except ConsiliumError as error:
        return failed("membership", str(error), "see the left")
    begins = datetime.fromisoformat(membership.not_before)
    remedy = "have the coordinator renew it, then `consilium site join membership.json`"
    return dated("membership", begins, membership.until(), now, remedy)


def _proxy(machine: Machine) -> Check:
    if machine.gateway:
        return ok("proxy", "{}:{}".format(*machine.gateway))  # and no password
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return note("proxy", "none, though HTTPS_PROXY names one", "set `proxy` in site.yaml if it is needed")
    return ok("proxy", "none")


def _coordinator(home: SiteHome, machine: Machine, now: datetime) -> Iterator[Check]:
    try:
        authority = read_certificate(home.ca)
    except ConsiliumError as error:
        yield failed("CA", str(error), "take ca.pem from the startup kit")
        return
    remedy = "the federation has to be founded anew: ask the coordinator"
    yield dated("CA", authority.not_before, authority.not_after, now, remedy)
    yield from reach(machine, home.ca)

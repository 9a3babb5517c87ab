"""Both handbooks in empty containers, every command as it is printed, from nothing to a run and a cohort.

`tests/test_handbooks.py` walks up to the federation's founding in this process. Here the machines are
containers of the image, which reach each other by the names that the handbooks use.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.home import CoordinatorHome
from sim.phantom import write_phantom
from sim.phantom_dicom import write_archive
from tests.deploy.federation import POLICY
from tests.deploy.podman import ENVIRONMENT, MISSING, Container, locks, until
from tests.deploy.test_images import HOME, IDLE, SERVER, SITE, network
from tests.test_handbooks import COORDINATOR, FINGERPRINT, commands
from tests.test_handbooks import SITE as HOSPITAL

__all__ = ["network"]

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(bool(MISSING), reason=f"deploy/ci-tools was not run: no {', '.join(MISSING)}"),
]

THERE, HOST = "10.89.77.10", "consilium.example.org"
SITES = ("north", "south")
DIGEST = re.compile(r"\b[0-9A-F]{16}\b")
INTERRUPTED = 130
SCREEN = ".screen"  # a file at the machine: podman may lose what a process that it runs has printed
# Noise that leaves something over: the round that is stopped may have to be paid twice.
CAUTIOUS = POLICY.replace("privacy: {", "privacy: {least_noise_multiplier: 6, ")


@dataclass(frozen=True)
class Desk:
    """A person before a machine: a container, and the folder that the handbook had made in it."""

    container: Container
    folder: Path

    def types(self, command: str, heard: str = "", *, for_seconds: int = 0) -> str:
        """Type a command, and what was heard on the telephone when asked; what is on the screen.

        One that would go on for ever gets Ctrl-C after `for_seconds`.
        """
        patience = ["timeout", "--signal=INT", str(for_seconds)] if for_seconds else []
        where = ["--interactive", "--env=COLUMNS=200", self.container.number]
        shown = ["sh", "-c", f'exec "$@" >{HOME}/{SCREEN} 2>&1', "sh"]
        words = ["podman", "exec", *where, *shown, *patience, *shlex.split(command)]
        done = subprocess.run(
            words,
            input=f"{heard}\n",
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            timeout=300,
            check=False,
        )
        screen = (self.folder / SCREEN).read_text() + done.stderr
        assert done.returncode in {0, *((124, INTERRUPTED) if for_seconds else ())}, f"{command}\n{screen}"
        return screen

    def leaves_running(self, command: str) -> None:
        """Type a command in another window."""
        words = ["podman", "exec", "--detach", self.container.number, *shlex.split(command)]
        subprocess.run(words, env=ENVIRONMENT, timeout=60, check=True, capture_output=True)

    def mails(self, file: str, other: "Desk") -> None:
        """Send a copy of a file."""
        _given(Path(shutil.copy(self.folder / file, other.folder)))


@pytest.fixture
def desks(image: str, tmp_path: Path, network: str) -> Iterator[dict[str, Desk]]:
    """The coordinator's and two hospitals': a folder each, at hospitals with what their archives exported."""
    write_phantom(tmp_path / "phantom", sites=2, patients=6, size=16, seed=3)
    write_archive(tmp_path / "phantom", tmp_path / "archive")
    with ExitStack() as machines:
        yield {
            name: Desk(
                machines.enter_context(_machine(image, network, tmp_path / name, name)), tmp_path / name
            )
            for name in ("coordinator", *SITES)
        }


def _machine(image: str, network: str, folder: Path, name: str) -> Container:
    folder.mkdir(mode=0o700)
    (folder / "recipes").symlink_to("/opt/consilium/recipes")
    if name in SITES:
        _export(folder.parent, f"site_{1 + SITES.index(name)}", folder)
    _given(folder)
    place = [f"--ip={THERE}"] if name == "coordinator" else []
    options = [
        *locks(SERVER if place else SITE),
        f"--network={network}",
        f"--add-host={HOST}:{THERE}",
        *place,
    ]
    return Container.start(
        image, [*options, f"--volume={folder}:{HOME}", f"--entrypoint={IDLE[0]}"], *IDLE[1:]
    )


def _export(root: Path, site: str, folder: Path) -> None:
    shutil.copytree(root / "phantom" / site, folder / "scans")
    for case in (path for path in (root / "phantom" / site).iterdir() if path.is_dir()):
        labels = folder / "labels" / f"{site}-{case.name}"  # by the number that the archive has
        labels.mkdir(parents=True)
        shutil.copy(case / "tumour.nii.gz", labels)
    (root / "archive" / site / "damaged.dcm").write_bytes(bytes(128) + b"DICM and no more")
    shutil.make_archive(str(folder / "export"), "zip", root / "archive" / site)


def _given(path: Path) -> Path:
    """Give a path and what is in it to the image's account."""
    for each in (path, *path.rglob("*")):
        os.chown(each, 1000, 1000, follow_symlinks=False)
    return path


def test_from_empty_machines_to_a_run(desks: dict[str, Desk]) -> None:
    coordinator, hospitals = desks["coordinator"], [desks[name] for name in SITES]
    screens = [coordinator.types(command) for command in commands(COORDINATOR, "1.")]
    fingerprints = dict(zip(SITES, FINGERPRINT.findall(screens[-2]), strict=True))
    server, connected, start, status, logs, stop, resume, key = commands(COORDINATOR, "3.")
    coordinator.leaves_running(server)
    for name in SITES:
        _joins(coordinator, desks[name], name, fingerprints[name])
    for site in hospitals:
        _decides(site)
        site.leaves_running(commands(HOSPITAL, "4.")[0])
    until(lambda: all(re.search(rf"{name}.*yes", coordinator.types(connected)) for name in SITES))
    coordinator.types(start)
    run = _newest(coordinator)
    until(lambda: "round 1 " in coordinator.types(logs.removesuffix(" -f")), lambda: _said(desks))
    coordinator.types(logs, for_seconds=5)
    coordinator.types(stop)
    until(lambda: "stopped" in coordinator.types(status), lambda: _said(desks))
    coordinator.types(resume)
    until(lambda: "finished" in coordinator.types(status), lambda: _said(desks), seconds=900)
    assert (run / "report.html").exists()
    assert re.fullmatch(r"[0-9a-f]{64}\s*", coordinator.types(key))
    for site in hospitals:
        _looks_back(site)
    _makes_a_cohort(hospitals[0])
    for command in commands(COORDINATOR, "4."):
        coordinator.types(command)


def _joins(coordinator: Desk, site: Desk, name: str, said: str) -> None:
    """Go through the hospital's section 1, and the coordinator's 2."""
    init, first, second, doctor, reader = commands(HOSPITAL, "1.")
    site.types(init)
    coordinator.mails(f"sites/{name}/kit.zip", site)
    back = FINGERPRINT.findall(site.types(first, said))[-1]
    site.mails("request.json", coordinator)
    (sign,) = commands(COORDINATOR, "2.")
    coordinator.types(sign, back)
    coordinator.mails(f"sites/{name}/membership.json", site)
    assert name in site.types(second)
    site.types(doctor)
    assert "6 patients" in site.types(reader)


def _decides(site: Desk) -> None:
    """Go through section 3, and allow what it looked at."""
    (explain,) = commands(HOSPITAL, "3.")
    assert "refused: recipes" in site.types(explain)
    (site.folder / "policy.yaml").write_text(CAUTIOUS)


def _looks_back(site: Desk) -> None:
    """Go through the rest of section 4."""
    _start, status, logs, stop, *books = commands(HOSPITAL, "4.")
    assert re.search(r"last: \w+ of round [1-9]", site.types(status))
    assert "train, round 1" in site.types(f"{logs} --lines 1000")
    site.types(logs)
    for command in books:
        site.types(command.replace("--site north", f"--site {site.folder.name}"))
    site.types(stop)


def _makes_a_cohort(site: Desk) -> None:
    """Go through section 2."""
    ingest, find, outlines = commands(HOSPITAL, "2.")
    site.types(ingest)
    page = (site.folder / "cohorts" / "brain" / "quality.html").read_text()
    digest, *_ = DIGEST.findall(page)
    assert "damaged.dcm" in site.types(DIGEST.sub(digest, find))
    site.types(outlines)


def _newest(coordinator: Desk) -> Path:
    (run,) = CoordinatorHome(coordinator.folder).runs.glob("phantom-*")
    return run


def _said(desks: dict[str, Desk]) -> str:
    folders = [desk.folder for desk in desks.values()]
    paths = [path for each in folders for path in sorted([*each.glob("logs/*"), *each.glob("runs/*/*.log")])]
    return "\n".join(f"--- {path}\n{path.read_text()[-1500:]}" for path in paths)

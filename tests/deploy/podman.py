"""Containers as the compose files describe them, run by podman.

What is tested is what the files say: a container here gets its locks from a service of a file.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
ENVIRONMENT = os.environ | {"CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf"))}
LISTENS = "0A"
TOOLS = ("buildah", "podman", "runc", "mmdebstrap", "nginx")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None] + ["root"] * (os.geteuid() != 0)
BASE, IMAGE = "localhost/consilium-test-base", "localhost/consilium-test"


def build() -> str:
    """Build the image, and return its name; CONSILIUM_IMAGE names one that was built elsewhere."""
    if built := os.environ.get("CONSILIUM_IMAGE"):
        return built
    if why := _no_base():
        pytest.skip(f"no container runs on this machine: {why}")
    subprocess.run([DEPLOY / "build", BASE, IMAGE], env=ENVIRONMENT, check=True, timeout=900)
    return IMAGE


def _no_base() -> str:
    """Make a base image and run a command in it; why that cannot be done here, or ""."""
    for words in ([DEPLOY / "debian-base", BASE], ["podman", "run", "--rm", "--network=none", BASE, "true"]):
        done = subprocess.run(
            words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, timeout=900, check=False
        )
        if done.returncode:
            return done.stderr[-300:] or f"{words[0]} ends with {done.returncode}"
    return ""


def service(file: str, name: str) -> dict[str, Any]:
    """One service of a compose file."""
    return yaml.safe_load((DEPLOY / file).read_text())["services"][name]


def locks(found: Mapping[str, Any]) -> list[str]:
    """What a service says of how it is locked in, as options of `podman run`."""
    return [
        *([f"--user={found['user']}"] if "user" in found else []),
        *(["--init"] if found.get("init") else []),
        *(["--read-only"] if found.get("read_only") else []),
        "--read-only-tmpfs=false",
        *(f"--cap-drop={name}" for name in found.get("cap_drop", [])),
        *(f"--security-opt={text.removesuffix(':true')}" for text in found.get("security_opt", [])),
        *(f"--tmpfs={text}" for text in found.get("tmpfs", [])),
    ]


def podman(*words: str, stderr: int = subprocess.PIPE) -> str:
    """What a podman command prints; where it fails, so does the test, with all that it said."""
    command = ["podman", *words]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=ENVIRONMENT, timeout=300, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Container:
    """One that runs; it is gone when the `with` ends."""

    number: str
    patience_s: int = 0

    @classmethod
    def start(cls, image: str, options: Sequence[str], *words: str, patience_s: int = 0) -> "Container":
        """Run one; at the end it is asked to stop, and killed `patience_s` later."""
        return cls(podman("run", "--detach", *options, image, *words).strip(), patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        podman("rm", "--force", f"--time={self.patience_s}", "--volumes", self.number)

    def run(self, *words: str) -> str:
        """Run one more process in it."""
        return podman("exec", self.number, *words)

    def logs(self) -> str:
        """All that it has said, to either stream."""
        return podman("logs", self.number, stderr=subprocess.STDOUT)

    @property
    def processes(self) -> list[int]:
        """Numbers of its processes on this machine."""
        return [int(line) for line in podman("top", self.number, "hpid").splitlines()[1:]]


def until(found: Callable[[], object], tell: Callable[[], str] = str, seconds: float = 150.0) -> None:
    """Poll until `found` returns something true; where it does not, fail with what `tell` says."""
    closes = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < closes, tell()
        time.sleep(0.2)


def weaknesses(container: Container) -> set[str]:
    """How a container is not locked in, as the kernel has it: bar C2 of a site."""
    return {word for pid in container.processes for word in _weaknesses(Path(f"/proc/{pid}"))}


def _weaknesses(process: Path) -> set[str]:
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    root = next(line for line in (process / "mountinfo").read_text().splitlines() if line.split()[4] == "/")
    wrong = {
        "root": "0" in status["Uid"].split() + status["Gid"].split(),
        "capabilities": any(int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
        "new privileges": status["NoNewPrivs"] != "1",
        "writable root": "ro" not in root.split()[5].split(","),
        "listener": any(not loopback for loopback in _listeners(process)),
    }
    return {word for word, is_wrong in wrong.items() if is_wrong}


def _listeners(process: Path) -> list[bool]:
    """Whether each socket that listens in the process's network is bound to loopback."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in (process / "net" / table).read_text().splitlines()[1:]
    ]
    addresses = [row[1].partition(":")[0] for row in rows if row[3] == LISTENS]
    return [each.endswith("7F") if len(each) == 8 else each == f"{'0' * 24}01000000" for each in addresses]

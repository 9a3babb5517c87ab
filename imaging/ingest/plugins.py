"""Programs of others that say which voxels of a head are brain, or face.

    skull_stripping: {name: synthstrip, version: "1.6", command: [synthstrip, -i, "{input}", -m, "{output}"]}
    deface: {name: ours}

The first word is an executable file beside ingest.yaml, or a program on the PATH. Without a command it is
what an installed package offers as an entry point of the group `consilium.skull_stripping` or
`consilium.deface`, a function of two paths.

    {input}     a NIfTI file, the patient's reference on the common grid: voxels, and nothing else of anybody
    {output}    to be written: a NIfTI file on the same grid, not 0 where the brain (or the face) is

A plug-in runs in a process of its own, in an empty folder, for at most `most_s` and in at most `most_mib`;
what it prints goes nowhere, and of our environment it does not see what begins with CONSILIUM. That
contains accidents, not malice: whoever is named in ingest.yaml is trusted as the site's own code is. One
that fails puts the patient aside, with the reason.

What a cohort was made with is written down: name, version, and a hash of the program's file, or of the
package's own list of files. Another hash makes every patient anew.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from nibabel import nifti1
from numpy.typing import NDArray

from imaging.reasons import Reason
from imaging.volume import SAME_MM, Volume
from protocol.errors import DicomError, SettingsError
from protocol.recipe import Natural, Positive, Title

GROUP = "consilium"
INPUT, OUTPUT = "{input}", "{output}"

Mask = NDArray[np.bool_]
"""`(X, Y, Z)`."""


@dataclass(frozen=True)
class PlugIn:
    """What stands in ingest.yaml, see the module."""

    name: Title
    version: str = ""
    command: tuple[str, ...] = ()
    most_s: Positive = 1800.0
    most_mib: Natural = 0


@dataclass(frozen=True)
class Identity:
    """Which program it was."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Tool:
    """A plug-in that is there: what it is for, what runs, and what it is."""

    purpose: str
    words: tuple[str, ...]
    plug_in: PlugIn
    identity: Identity

    def plain(self) -> dict[str, str]:
        """Return what is written down of it."""
        return asdict(self.identity)


def find(purpose: str, plug_in: PlugIn, folder: Path) -> Tool:
    """Return a plug-in that can be run; `folder` is that of ingest.yaml.

    Raises:
        SettingsError: it is not on this machine, or its command does not name both files.
    """
    if not plug_in.command:
        entry = _entry(purpose, plug_in)
        version, files = (entry.dist.version, entry.dist.read_text("RECORD")) if entry.dist else ("", "")
        identity = Identity(plug_in.name, version, hashlib.sha256((files or "").encode()).hexdigest())
        called = (sys.executable, "-m", "imaging.ingest.plugins", purpose, plug_in.name, INPUT, OUTPUT)
        return Tool(purpose, called, plug_in, identity)
    first, *others = plug_in.command
    program = shutil.which(folder.absolute() / first) or shutil.which(first)
    if program is None:
        raise SettingsError(
            f"{purpose}: no program '{first}' is beside ingest.yaml or on the PATH: install it"
        )
    if not {INPUT, OUTPUT} <= {*others}:
        raise SettingsError(f"{purpose}: its command must have {INPUT} and {OUTPUT}, each a word of its own")
    digest = hashlib.sha256(Path(program).read_bytes()).hexdigest()
    identity = Identity(plug_in.name, plug_in.version, digest)
    return Tool(purpose, (program, *others), plug_in, identity)


def mask(tool: Tool, volume: Volume) -> Mask:
    """Return the voxels that a plug-in names.

    Raises:
        DicomError: PLUG_IN, where it fails, or its answer is none.
    """
    with TemporaryDirectory(prefix="plug-in-") as folder:
        given, wanted = Path(folder) / "input.nii", Path(folder) / "output.nii"
        volume.save(given)
        _run(tool, [{INPUT: str(given), OUTPUT: str(wanted)}.get(word, word) for word in tool.words], folder)
        return _answer(tool, wanted, volume)


def _entry(purpose: str, plug_in: PlugIn) -> EntryPoint:
    group = f"{GROUP}.{purpose}"
    found = next(iter(entry_points(group=group, name=plug_in.name)), None)
    if found is None:
        there = ", ".join(sorted(entry_points(group=group).names)) or "none"
        raise SettingsError(f"{purpose}: no installed package offers '{plug_in.name}'; there are: {there}")
    return found


def _run(tool: Tool, words: list[str], folder: str) -> None:
    process = subprocess.Popen(  # noqa: S603 - the site's own words, without a shell
        [sys.executable, "-m", "imaging.ingest.limited", str(tool.plug_in.most_mib), *words],
        cwd=folder,
        env=dict(_environment(os.environ, folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that it can be ended with all that it has started
    )
    try:
        status = process.wait(tool.plug_in.most_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise _failed(tool, f"took longer than {tool.plug_in.most_s:g} s") from None
        raise
    if status:
        raise _failed(tool, f"ended with status {status}")


def _environment(ours: Mapping[str, str], folder: str) -> Iterator[tuple[str, str]]:
    yield from ((key, value) for key, value in ours.items() if not key.startswith("CONSILIUM"))
    yield "PYTHONPATH", os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path)
    yield "TMPDIR", folder


def _answer(tool: Tool, path: Path, volume: Volume) -> Mask:
    try:
        image = nifti1.load(path)
        values, affine = np.asarray(image.dataobj), np.asarray(image.affine)
    except Exception:  # noqa: BLE001 - whatever stands in what another program wrote
        raise _failed(tool, "wrote no NIfTI file") from None
    if values.shape != volume.values.shape or np.abs(affine - volume.affine).max() > SAME_MM:
        raise _failed(tool, "wrote a mask on another grid")
    if not values.any():
        raise _failed(tool, "found nothing")
    return values != 0


def _failed(tool: Tool, how: str) -> DicomError:
    return DicomError(Reason.PLUG_IN, f"{tool.purpose} by '{tool.identity.name}' {how}")


def call(purpose: str, name: str, given: str, wanted: str) -> None:
    """Call an entry point, in the process that is its own."""
    _entry(purpose, PlugIn(name)).load()(Path(given), Path(wanted))


if __name__ == "__main__":
    call(*sys.argv[1:])

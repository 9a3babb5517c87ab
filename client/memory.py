"""What a site keeps from round to round: private groups, control variates, a personal model.

One safetensors file a round, written atomically; the two newest stay. A task of round `r`
reads the newest file *older* than `r`, so that a round which is asked again (the server was
killed after the site had answered) starts from exactly what the first attempt started from.

Only their owner may read them (0600): a private run keeps noise here that is still to be taken
back (`privacy.ftrl`).
"""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from protocol import files
from protocol.errors import CheckpointError
from protocol.update import Vectors

KEPT = 2
_NAME = re.compile(r"^round-(\d{6})\.safetensors$")


def recall(folder: Path, before: int) -> dict[str, Vectors]:
    """Read the newest memory of a round < `before`: name -> group -> vector; {} if none."""
    rounds = [number for number in _rounds(folder) if number < before]
    if not rounds:
        return {}
    path = folder / _name(max(rounds))
    try:
        flat = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        msg = f"site memory of round {max(rounds)} cannot be read ({error}): restart the run from round 1"
        raise CheckpointError(msg) from error
    memory: dict[str, Vectors] = {}
    for key, vector in flat.items():
        name, _, group = key.partition("/")
        memory.setdefault(name, {})[group] = vector
    return memory


def remember(folder: Path, number: int, memory: Mapping[str, Vectors]) -> None:
    """Write the memory after round `number`; nothing to keep writes nothing."""
    if not memory:
        return
    flat = {f"{name}/{group}": v.cpu() for name, vectors in memory.items() for group, v in vectors.items()}
    files.write(folder / _name(number), save(flat))
    for old in sorted(_rounds(folder))[:-KEPT]:
        (folder / _name(old)).unlink()


def _name(number: int) -> str:
    return f"round-{number:06d}.safetensors"


def _rounds(folder: Path) -> list[int]:
    names = folder.iterdir() if folder.is_dir() else ()
    return [int(match[1]) for path in names if (match := _NAME.match(path.name))]

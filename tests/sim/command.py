"""Our program as a process of its own, as its users start it."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from server import checkpoint

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "phantom.yaml"


def start(*words: object) -> subprocess.Popen[str]:
    """Start `consilium` with `words`; its output is one text."""
    command = [sys.executable, "-m", "consilium", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for its end; return the exit status and the text."""
    text = process.communicate()[0]
    return process.returncode, text


def done(*words: object) -> str:
    """Run to the end, which must be good; return the text."""
    code, text = finish(start(*words))
    assert code == 0, text
    return text


def final(folder: Path) -> dict[str, torch.Tensor]:
    """The last checkpoint's vectors of a run."""
    return checkpoint.load(folder / "checkpoints").vectors


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Equal names and equal bits."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)

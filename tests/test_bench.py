"""The benchmarks run: nobody else calls them, and code that moves on leaves them behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.privacy_cost import nets
from models.catalogue import MODELS

ROOT = Path(__file__).parent.parent

SMALL = {
    "bench.jobs": ["trivial"],
    "bench.memory": [],
    "bench.aggregation": [],
    "bench.epoch": ["2"],
    "bench.ingest": ["20"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_prints_a_line_for_us_and_one_for_the_floor(name: str) -> None:
    words = [sys.executable, "-m", name, *SMALL[name]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "floor" in done.stdout or "in-place add" in done.stdout


def test_the_price_of_privacy_is_measured_for_every_model() -> None:
    assert {net.recipe.model.name for net in nets().values()} == set(MODELS)

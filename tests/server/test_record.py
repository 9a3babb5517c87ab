"""The record as JSON: what is written is read, anything else is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import CheckpointError
from protocol.metrics import Tally
from server.record import (
    Round,
    RunRecord,
    SiteRound,
    SiteSummary,
    from_json,
    read_record,
    round_from_json,
    round_to_json,
    to_json,
)

NAMES = st.text(max_size=6)
COUNTS = st.integers(0, 2**53)
NUMBERS = st.floats(allow_nan=False)
MAYBE = st.none() | NUMBERS
TALLIES = st.builds(lambda a, b: Tally("dice", (a, b)), st.floats(0, 1e9), st.floats(0, 1e9))
SCORES = st.dictionaries(NAMES, TALLIES, max_size=2)
SITE_ROUNDS = st.builds(
    SiteRound,
    site=NAMES,
    status=st.sampled_from(["accepted", "refused", "failed", "late", "spent"]),
    reason=NAMES,
    cases=COUNTS,
    groups=st.lists(NAMES, max_size=3).map(tuple),
    loss=MAYBE,
    seconds=NUMBERS,
    bytes_down=COUNTS,
    bytes_up=COUNTS,
    epsilon=MAYBE,
    epsilon_pld=MAYBE,
    delta=MAYBE,
    noise_multiplier=MAYBE,
)
ROUNDS = st.builds(
    Round,
    number=COUNTS,
    sites=st.lists(SITE_ROUNDS, max_size=2).map(tuple),
    seconds=st.dictionaries(NAMES, NUMBERS, max_size=2),
    update_norm=NUMBERS,
    scores=st.dictionaries(NAMES, SCORES, max_size=2),
)
TOLD = st.dictionaries(NAMES, COUNTS, max_size=2)
SUMMARIES = st.builds(SiteSummary, NAMES, TOLD, TOLD, TOLD, TOLD, version=NAMES)
RECORDS = st.builds(
    RunRecord,
    run=NAMES,
    recipe=NAMES,
    started=NAMES,
    sites=st.lists(SUMMARIES, max_size=2).map(tuple),
    rounds=st.lists(ROUNDS, max_size=2).map(tuple),
    subsets=st.dictionaries(NAMES, st.dictionaries(NAMES, SCORES, max_size=2), max_size=2),
    environment=st.dictionaries(NAMES, NAMES, max_size=2),
    status=st.sampled_from(["running", "finished", "stopped", "failed"]),
    early=NAMES,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(["number", "sites", "seconds", "scores", "run"]), below, max_size=5)
    ),
    max_leaves=8,
)

RECORD = RunRecord("r", "name: r", "2026-01-01T00:00:00+00:00", ())


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record: RunRecord) -> None:
    assert from_json(to_json(record)) == record


@given(ROUNDS)
def test_a_round_is_one_line_and_is_read_as_it_was_written(ended: Round) -> None:
    line = round_to_json(ended)
    assert "\n" not in line
    assert round_from_json(line) == ended


def test_a_loss_that_became_nan_is_kept_in_json_that_everybody_reads() -> None:
    line = round_to_json(Round(1, (SiteRound("a", "accepted", loss=math.nan),), update_norm=math.inf))
    json.loads(line, parse_constant=pytest.fail)
    found = round_from_json(line)
    assert math.isnan(found.sites[0].loss or 0)
    assert found.update_norm == math.inf


@given(JSON)
def test_anything_else_is_a_clear_error(plain: object) -> None:
    for read in (from_json, round_from_json):
        with pytest.raises(CheckpointError, match="is damaged"):
            read(json.dumps(plain))


@given(st.data())
def test_a_torn_record_is_a_clear_error(data: st.DataObject) -> None:
    text = to_json(RECORD)
    end = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(CheckpointError, match="record is damaged"):
        from_json(text[:end])


def test_sums_that_no_metric_counts_are_a_clear_error() -> None:
    scored = replace(RECORD, subsets={"a": {"t1": {"tumour/dice": Tally("dice", (1.0, 2.0))}}})
    with pytest.raises(CheckpointError, match=r"record is damaged .* sums"):
        from_json(to_json(scored).replace("2.0", "2.0, 3.0"))


def test_a_run_that_goes_on_is_read_with_the_rounds_so_far(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(to_json(RECORD))
    assert read_record(tmp_path) == RECORD
    one, two = Round(1, ()), Round(2, ())
    lines = f"{round_to_json(one)}\n{round_to_json(two)}\n"
    (tmp_path / "rounds.jsonl").write_text(f"{lines}{lines[:20]}")  # a third is just being written
    assert read_record(tmp_path).rounds == (one, two)


def test_a_run_without_a_record_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has not met its sites"):
        read_record(tmp_path)

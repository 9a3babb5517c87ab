"""Log lines of JSON that quote no stranger's error."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import DataError
from protocol.logs import LEVELS, JsonLines, entry, line, readable, told

SECRET = "Miller, John"
FLOWERS = "\x1b[93mWARNING \x1b[0m:     Connection attempt failed, retrying in 1.33 seconds"
TIME = 1_795_000_000.25
ENDS = """
import logging, threading
from flwr.common.logger import FLOWER_LOGGER
from protocol import logs
logs.begin()
logging.getLogger("consilium.x").info("at work")
FLOWER_LOGGER.debug("detail")
FLOWER_LOGGER.info("Flower's")
def fail(): raise FileNotFoundError("/data/Miller, John/t1.dcm")
{how}
"""


def _record(error: BaseException | None = None) -> logging.LogRecord:
    return logging.LogRecord(
        "consilium.site",
        logging.ERROR,
        __file__,
        1,
        "round %d failed",
        (3,),
        (type(error), error, error.__traceback__) if error else None,
    )


def _raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except type(error) as raised:
        return raised


def test_a_record_is_one_line_of_named_fields() -> None:
    fields = json.loads(JsonLines("launcher").format(_record()))
    assert set(fields) == {"time", "level", "program", "logger", "message"}
    assert (fields["level"], fields["program"], fields["message"]) == ("error", "launcher", "round 3 failed")


def _careless(error: BaseException) -> list[str]:
    return [str(error)]


@pytest.mark.parametrize(("tell", "leaks"), [(told, False), (_careless, True)])
def test_a_strangers_error_is_told_by_its_class_and_the_code_it_passed(
    tell: Callable[[BaseException], object],
    leaks: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("protocol.logs.told", tell)
    error = _raised(KeyError(SECRET), cause=_raised(OSError(SECRET)))
    said = JsonLines().format(_record(error))
    assert (SECRET in said) == leaks
    if not leaks:
        steps = json.loads(said)["error"]
        assert (steps[0], steps[2]) == ("KeyError", "OSError")
        assert steps[1].startswith("tests/protocol/test_logs.py:")
        assert steps[1].endswith(" _raised")


def test_an_error_of_ours_is_told_with_its_text() -> None:
    assert next(told(_raised(DataError("3 cases have no mask")))) == "DataError: 3 cases have no mask"


def test_what_another_program_prints_becomes_such_a_line() -> None:
    fields = json.loads(entry("supernode", FLOWERS, TIME))
    assert (fields["level"], fields["program"]) == ("warning", "supernode")
    assert fields["message"] == "Connection attempt failed, retrying in 1.33 seconds"
    assert fields["time"] == "2026-11-18T11:06:40.250+00:00"
    assert json.loads(entry("supernode", "note: plain", TIME))["message"] == "note: plain"


def test_a_line_of_ours_keeps_its_own_time_and_gets_the_programs_name() -> None:
    fields = json.loads(entry("launcher", line("error", "", "x", time=TIME, logger="consilium.x"), TIME + 9))
    assert fields["time"].startswith("2026-11-18T11:06:40")
    assert (fields["program"], fields["level"], fields["logger"]) == ("launcher", "error", "consilium.x")


@given(st.text())
def test_whatever_is_said_is_one_line_and_can_be_read(said: str) -> None:
    made = entry("launcher", said, TIME)
    assert "\n" not in made
    assert json.loads(made)["level"] in LEVELS
    readable(made)
    readable(said)


def test_people_read_time_level_and_message_and_where_an_error_was() -> None:
    error = _raised(DataError("no mask"))
    first, second, third = readable(JsonLines("run").format(_record(error))).splitlines()
    assert first[10:].split(maxsplit=2)[1:] == ["ERROR", "round 3 failed"]
    assert second.strip() == "DataError: no mask"
    assert third.strip().startswith("tests/protocol/test_logs.py:")
    assert readable("not of ours") == "not of ours"
    assert readable("[1]") == "[1]"


@pytest.mark.parametrize(
    "how", ["fail()", "thread = threading.Thread(target=fail); thread.start(); thread.join()"]
)
def test_a_process_that_ends_by_an_error_says_so_and_quotes_nothing(how: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", ENDS.format(how=how)], capture_output=True, text=True, check=False
    ).stderr
    assert SECRET not in said
    first, flowers, last = (json.loads(each) for each in said.splitlines())
    assert (first["message"], flowers["message"]) == ("at work", "Flower's")
    assert (last["level"], last["error"][0]) == ("critical", "FileNotFoundError")

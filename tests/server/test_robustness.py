"""What was found, as files and as a page."""

import csv
import io
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import CheckpointError
from server import robustness
from server.robustness import Estimate, Robustness, Row, key
from server.robustness_page import chapter, standing_alone

NOTHING = Estimate(math.nan, math.nan, math.nan)


def row(family: str, level: str, value: float = 0.7) -> Row:
    here = Estimate(value, value - 0.1, value + 0.1)
    return Row(family, level, "tumour/dice", 9, here, here, here, {"north": here, "south": NOTHING})


FOUND = Robustness(
    "a <model>",
    "ab12",
    "tumour/dice",
    "final",
    "",
    0,
    100,
    {"north": 6, "south": 3},
    (
        row("own", "own"),
        row("declared", "t1"),
        row("declared", "t1+t2", 0.8),
        row("zeroed", "t1", 0.1),
        row("rmm0.5", "t1", 0.4),
        *(row("nm", level, 0.3) for level in ("low", "mid", "high")),
        *(row("blur", level, 0.2) for level in "12345"),
    ),
    {"own": Estimate(0.7, 0.6, 0.8), "rbe": NOTHING},
    "2026-01-01T00:00:00+00:00",
    "0123",
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    numbers = {key("own", "own", "tumour/dice"): np.array([0.7, 0.6, math.nan])}
    robustness.write(tmp_path, FOUND, numbers)
    again = robustness.read(tmp_path)

    assert again is not None
    assert repr(again) == repr(FOUND)  # NaN is not equal to itself
    (values,) = robustness.read_replicates(tmp_path).values()
    np.testing.assert_array_equal(values, numbers["own|own|tumour/dice"])
    assert robustness.read(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": 3}'])
def test_what_is_damaged_is_said_to_be(text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="make it anew"):
        robustness.from_json(text)
    (tmp_path / robustness.REPLICATES).write_text(text)
    with pytest.raises(CheckpointError, match="consilium evaluate"):
        robustness.read_replicates(tmp_path)


def test_the_table_has_a_line_for_every_number() -> None:
    lines = list(csv.DictReader(io.StringIO(robustness.to_csv(FOUND))))
    blur = [each for each in lines if each["family"] == "blur" and each["over"] == "north"]

    assert len(lines) == 2 + len(FOUND.rows) * 5
    assert [each["level"] for each in blur] == list("12345")
    assert (float(blur[0]["low"]), float(blur[0]["value"])) == pytest.approx((0.1, 0.2))


def test_only_numbers_that_exist_are_logged() -> None:
    assert robustness.logged(FOUND) == {"robustness/own": 0.7}


class Table(HTMLParser):
    """Collects text and refuses anything that would be fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")

    def handle_data(self, data: str) -> None:
        self.text += f" {data} "


def test_the_page_shows_it_and_needs_nothing_else() -> None:
    page = Table()
    page.feed(standing_alone(FOUND))
    words = " ".join(page.text.split())

    assert "a <model>" in words
    assert "north 6, south 3" in words
    assert "modalities left declared zeroed rmm0.5" in words
    assert "corruption, mild to severe 1 2 3 4 5 nm 0.300 0.300 0.300 \u2013 \u2013 blur 0.200" in words
    assert "leave no hospital" in words
    assert 'title="0.300 to 0.500, 9 patients, worst site 0.400"' in standing_alone(FOUND)


def test_a_report_says_how_to_look_where_nobody_has() -> None:
    assert "consilium evaluate RUN" in chapter(None)

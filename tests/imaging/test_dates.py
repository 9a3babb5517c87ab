"""Moments move together, whatever way they are written."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.dates import shifted_date, shifted_datetime, shifted_time
from imaging.pseudonyms import FARTHEST, NEAREST

MOMENTS = st.datetimes(datetime(1950, 1, 1), datetime(2040, 1, 1))  # noqa: DTZ001 - a place's own
OFFSETS = st.timedeltas(-FARTHEST, -NEAREST)


def moment(text: str, form: str) -> datetime:
    """DICOM's moments are a place's own."""
    return datetime.strptime(text, form)  # noqa: DTZ007


def in_two(at: datetime, offset: timedelta) -> datetime:
    """A date and a time, moved and put together again."""
    day, time = f"{at:%Y%m%d}", f"{at:%H%M%S.%f}"
    both = f"{shifted_date(day, time, offset)}{shifted_time(time, day, offset)}"
    return moment(both, "%Y%m%d%H%M%S.%f")


def in_one(at: datetime, offset: timedelta) -> datetime:
    """A datetime, moved."""
    return moment(f"{shifted_datetime(f'{at:%Y%m%d%H%M%S.%f}', offset)}", "%Y%m%d%H%M%S.%f")


@given(MOMENTS, MOMENTS, OFFSETS)
def test_intervals_stay_to_the_microsecond(first: datetime, second: datetime, offset: timedelta) -> None:
    """Between pairs, between datetimes, and from one to the other."""
    assert in_two(second, offset) - in_two(first, offset) == second - first
    assert in_one(second, offset) - in_two(first, offset) == second - first


@given(MOMENTS, MOMENTS, OFFSETS)
def test_a_lone_date_moves_by_days_and_a_lone_time_around_the_clock(
    first: datetime, second: datetime, offset: timedelta
) -> None:
    days = [moment(f"{shifted_date(f'{at:%Y%m%d}', None, offset)}", "%Y%m%d") for at in (first, second)]
    times = [
        moment(f"{shifted_time(f'{at:%H%M%S.%f}', None, offset)}", "%H%M%S.%f") for at in (first, second)
    ]

    assert days[1] - days[0] == second.date() - first.date()
    assert (times[1] - times[0] - (second - first)) % timedelta(days=1) == timedelta(0)


OFFSET = -timedelta(days=400, hours=1)


@pytest.mark.parametrize(
    ("day", "time", "moved"),
    [
        ("20190130", "0030", "20171225"),  # an hour back is the day before
        ("20190130", "0130", "20171226"),
        ("2019.01.30", "01:30:00", "20171226"),  # as ACR-NEMA wrote it
        ("20190130 ", None, "20171225"),  # whole days, rounded into the past
        ("20190130", "noon", "20171225"),
    ],
)
def test_a_date_moves_with_its_time(day: str, time: str | None, moved: str) -> None:
    assert shifted_date(day, time, OFFSET) == moved


@pytest.mark.parametrize(
    "text", ["", "2019", "201901", "20190230", "20191301", "yesterday", "00000101", "20190130x"]
)
def test_what_is_no_date_is_not_moved(text: str) -> None:
    assert shifted_date(text, "120000", OFFSET) is None
    assert shifted_datetime(text, OFFSET) is None


@pytest.mark.parametrize("text", ["", "25", "1", "2460", "120000.1234567", "12:3", "noon"])
def test_what_is_no_time_is_not_moved(text: str) -> None:
    assert shifted_time(text, "20190130", OFFSET) is None


def test_nothing_moves_before_the_calendar() -> None:
    assert shifted_date("00010101", None, OFFSET) is None
    assert shifted_date("10000101", None, OFFSET) is None


def test_a_time_zone_is_a_place_and_goes() -> None:
    assert shifted_datetime("20190130013000+0930", OFFSET) == "20171226003000.000000"


TEXTS = st.text("0123459.:+- x\u0660", max_size=20)


@given(TEXTS, TEXTS, OFFSETS)
def test_no_text_breaks_it(first: str, second: str, offset: timedelta) -> None:
    shifted_date(first, second, offset)
    shifted_time(first, second, offset)
    shifted_datetime(first, offset)

"""Moving a patient's dates and times together, so that what lies between them stays.

DICOM writes a moment as a date and a time in two attributes (`StudyDate`, `StudyTime`: DA and TM) or as one
(DT); PS3.5 6.2. A pair is moved as one moment: a scan that ran past midnight still does. A date whose time is
unknown is moved by whole days, and a time whose date is unknown turns around the clock. Times of day are
moved too: to the second, they find a patient in a hospital's schedule as well as a name does.
"""

import re
from datetime import datetime, timedelta

_DA = re.compile(r"(\d{4})(\.?)(\d\d)\2(\d\d)", re.ASCII)
_TM = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?", re.ASCII)
_ZONE = re.compile(r"[+-]\d{4}$", re.ASCII)

_SOME_DAY = "20000101"
_FOUR_DIGITS = 1000  # the first year that is written so without help


def shifted_date(day: str, time: str | None, offset: timedelta) -> str | None:
    """Return a DA value moved by `offset`, given the TM beside it; None for what is no date."""
    moment = _moment(day, time)
    if moment is not None:
        return _written(moment, offset, "%Y%m%d")
    return _written(_moment(day, "00"), timedelta(days=offset.days), "%Y%m%d")


def shifted_time(time: str, day: str | None, offset: timedelta) -> str | None:
    """Return a TM value moved by `offset`, given the DA beside it; None for what is no time."""
    return _written(_moment(day, time) or _moment(_SOME_DAY, time), offset, "%H%M%S.%f")


def shifted_datetime(moment: str, offset: timedelta) -> str | None:
    """Return a DT value moved by `offset`, without its time zone; None for what has no full date.

    A zone is a place. A patient's moments are written in one zone, but for the odd hour of summer time.
    """
    local = _ZONE.sub("", moment.strip())
    return _written(_moment(local[:8], local[8:] or "00"), offset, "%Y%m%d%H%M%S.%f")


def _moment(day: str | None, time: str | None) -> datetime | None:
    on, at = _DA.fullmatch((day or "").strip()), _TM.fullmatch((time or "").strip())
    if on is None or at is None:
        return None
    hour, minute, second, fraction = at.groups("00")
    text = f"{on[1]}{on[3]}{on[4]}{hour}{minute}{second}.{fraction}"
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S.%f")  # noqa: DTZ007 - DICOM's local time
    except ValueError:
        return None


def _written(moment: datetime | None, offset: timedelta, form: str) -> str | None:
    try:
        moved = moment and moment + offset
    except OverflowError:
        return None
    return f"{moved:{form}}" if moved and moved.year >= _FOUR_DIGITS else None

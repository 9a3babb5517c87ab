"""Which studies are asked for, and which of those that are listed are taken."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.pacs.asked import Asked, distinct, is_uid, read_list
from protocol.errors import DataError

DAYS = st.one_of(st.none(), st.dates(date(1990, 1, 1), date(2030, 1, 1)))
NUMBERS = st.lists(st.text("ABC123", min_size=1, max_size=6), unique=True, max_size=3)


def row(**told: str) -> dict[str, str]:
    """A study as an archive lists it, which tells what it likes."""
    silent = dict.fromkeys(("StudyDate", "PatientID", "AccessionNumber", "ModalitiesInStudy"), "")
    return {"StudyInstanceUID": "1.2.3", **silent, **told}


@given(DAYS, DAYS, NUMBERS, NUMBERS)
def test_every_question_is_narrower_than_the_archive(
    since: date | None, until: date | None, patients: list[str], accessions: list[str]
) -> None:
    """And each patient and accession number is asked about, in the days that were named."""
    if not (since or until or patients or accessions):
        return
    asked = Asked(since=since, until=until, patients=tuple(patients), accessions=tuple(accessions))

    queries = [*asked.queries()]

    assert all(queries)
    assert {query.get("PatientID") for query in queries} == {*(patients or [None])}
    assert {query.get("AccessionNumber") for query in queries} == {*(accessions or [None])}
    days = f"{since.strftime('%Y%m%d') if since else ''}-{until.strftime('%Y%m%d') if until else ''}"
    assert {query.get("StudyDate") for query in queries} == {days if since or until else None}


def test_all_of_an_archive_is_not_asked_for() -> None:
    with pytest.raises(DataError, match="all that the hospital has"):
        Asked(modalities=("MR",))


ASKED = Asked(("MR",), date(2020, 1, 1), date(2020, 12, 31), ("P1",), ("A1",))


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({}, True),
        ({"StudyDate": "20200101", "PatientID": "P1", "ModalitiesInStudy": "SR\\MR"}, True),
        ({"StudyDate": "20191231"}, False),
        ({"StudyDate": "20210101"}, False),
        ({"PatientID": "P2"}, False),
        ({"AccessionNumber": "A2"}, False),
        ({"ModalitiesInStudy": "US"}, False),
        ({"StudyInstanceUID": "1.2/../../instances"}, False),
        ({"StudyInstanceUID": ""}, False),
    ],
)  # fmt: skip
def test_what_an_archive_lists_beside_the_question_is_not_taken(
    *, told: dict[str, str], wanted: bool
) -> None:
    assert ASKED.wants(row(**told)) == wanted


def test_open_ends_are_open() -> None:
    assert Asked(since=date(2020, 1, 1)).wants(row(StudyDate="20991231"))
    assert Asked(until=date(2020, 1, 1)).wants(row(StudyDate="19000101"))


def test_a_list_is_numbers_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\ufeffPatient\n P-1 \n\n0042\nP-1\n", encoding="utf-8")

    assert read_list(path) == ("P-1", "0042")


@pytest.mark.parametrize(
    "text", ["", "patient\n", "P*\n", "1\nP?1\n", "P\\Q\n", "1,2\n", "1\t2\n", "x" * 65, "\xff"]
)
def test_a_list_that_asks_for_more_is_refused_without_its_lines(tmp_path: Path, text: str) -> None:
    """`*` matches all patients; a table is no list."""
    (tmp_path / "list.txt").write_text(text, encoding="latin-1")

    with pytest.raises(DataError) as caught:
        read_list(tmp_path / "list.txt")
    assert not any(line in str(caught.value) for line in text.split() if line not in {"patient", "1"})


def test_words_are_dicoms() -> None:
    assert distinct(["mr", "CT", " mr "]) == ("CT", "MR")
    assert is_uid("1.2.840.10008")
    assert not [text for text in ("1.2/3", "", "..", "1..2", ".1", "1.", "1" * 65, "1.2\n") if is_uid(text)]

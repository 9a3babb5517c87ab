"""Tables of labels: numbers for stand-ins, and nothing else."""

from pathlib import Path

import pytest

from imaging.ingest.tables import read_rows, read_table, sheet_of
from imaging.ingest.walk import Entry, walk
from protocol.errors import DataError
from tests.imaging.ingest.exports import NAME, desk, patient

WORDS = "{levels: {sex: {female: [f, W], male: [m]}}, terms: {text: {oedema: [oedema, Ödem], mass: [mass]}}}"


def table(folder: Path, text: str, settings: str = "{}") -> dict[str, dict[str, str]]:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(desk(folder / "home", settings), path)


def test_patients_become_stand_ins_and_numbers_stay(tmp_path: Path) -> None:
    found = table(tmp_path, f"grade,patient,os_time\n1, {patient(1)} ,\n0,{patient(2)},7.5\n1,,3\n")

    at = desk(tmp_path / "home")
    assert found == {
        at.patient(patient(1)): {"grade": "1", "os_time": ""},
        at.patient(patient(2)): {"grade": "0", "os_time": "7.5"},
    }


@pytest.mark.parametrize(
    "text",
    [
        f"patient,doctor\n1,{NAME}\n",
        f"name,grade\n{NAME},1\n",
        f"patient,{NAME} senior\n1,1\n",
        f"patient,grade\n1,1,{NAME}\n",
        f"patient,grade\n\x001,{NAME}\n",
    ],
)
def test_a_cell_of_text_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError) as caught:
        table(tmp_path, text)
    assert NAME not in str(caught.value)


def test_of_words_and_reports_only_what_is_listed_comes_in(tmp_path: Path) -> None:
    """By whole words, in any case; an empty cell is no zero."""
    rows = [f'1,w,"{NAME} has an\n OEDEMA. Massive."', "2,M,", "3,,Ödem mass"]

    found = table(tmp_path, "\n".join(["patient,sex,text", *rows]), WORDS)

    names = ("sex_female", "sex_male", "text_oedema", "text_mass")
    cells = [tuple(row[name] for name in names) for row in found.values()]
    assert cells == [("1", "0", "1", "0"), ("0", "1", "", ""), ("", "", "1", "1")]
    assert all(row.keys() == {*names} for row in found.values())
    assert NAME not in str(found)


def test_a_patients_rows_become_one_or_are_refused(tmp_path: Path) -> None:
    (row,) = table(tmp_path, "patient,sex,text,age\n1,f,no mass,\n1,,oedema,40\n", WORDS).values()
    assert row == {"age": "40", "sex_female": "1", "sex_male": "0", "text_mass": "1", "text_oedema": "1"}

    for rows in ("1,f,,40\n1,f,,41", "1,f,,40\n1,m,,40"):
        with pytest.raises(DataError, match="contradict"):
            table(tmp_path, f"patient,sex,text,age\n{rows}\n", WORDS)


def test_a_word_that_is_not_listed_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'sex'") as caught:
        table(tmp_path, f"patient,sex\n1,{NAME}\n", WORDS)
    assert NAME not in str(caught.value)


REPORTS = WORDS.replace("{levels", "{tables: [report], levels", 1)


@pytest.mark.parametrize(
    ("path", "sheet"),
    [
        ("a/report.csv", "report"),
        ("a/other.csv", "other"),
        ("a/Report.TXT", "report"),
        ("report/a.txt", "report"),
        ("a/readme.txt", None),
        ("report/a.dcm", None),
    ],
)
def test_a_table_or_a_report_is_told_by_its_name(path: str, sheet: str | None) -> None:
    assert sheet_of(Entry(path, "", 0, 0), ("report",)) == sheet
    assert sheet_of(Entry("x.zip", path, 0, 0), ("report",)) == sheet


@pytest.mark.parametrize(
    "name", [f"{patient(1)}/report.txt", f"report/{patient(1)}.txt", f"sub-{patient(1)}/ses-2/report.txt"]
)
def test_a_report_in_a_file_of_its_own_is_its_patients(tmp_path: Path, name: str) -> None:
    path = tmp_path / "export" / name
    path.parent.mkdir(parents=True)
    path.write_text(f"{NAME}:\nno OEDEMA seen.", encoding="utf-8")
    at, (entry,) = desk(tmp_path / "home", REPORTS), walk([tmp_path / "export"])

    assert read_rows(at, entry, path) == {at.patient(patient(1)): {"text_mass": "0", "text_oedema": "1"}}

    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="UTF-8"):
        read_rows(at, entry, path)
    with pytest.raises(DataError, match="terms"):
        read_rows(desk(tmp_path / "home", "tables: [report]"), entry, path)

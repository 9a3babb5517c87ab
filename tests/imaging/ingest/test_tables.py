"""Tables of labels: numbers for stand-ins, and nothing else."""

from pathlib import Path

import pytest

from imaging.ingest.tables import read_table
from protocol.errors import DataError
from tests.imaging.ingest.exports import NAME, desk, patient


def table(folder: Path, text: str) -> dict[str, dict[str, str]]:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(desk(folder / "home"), path)


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

"""A value is what its attribute promises, or it is none."""

import pytest
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import MRImageStorage

from imaging.values import dummy, emptied, is_sound, listed, read, representations, text


def element(representation: str, value: object) -> DataElement:
    with config.disable_value_validation():
        return DataElement(0x00189999, representation, value)


@pytest.mark.parametrize(
    ("representation", "value", "multiplicity"),
    [
        ("DS", "1.5e-3", "1"),
        ("DS", ["1", "2"], "2"),
        ("IS", "-12", "1"),
        ("US", [1, 2, 3], "2-n"),
        ("FD", 0.5, "1"),
        ("CS", ["ORIGINAL", "M_FFE"], "2-n"),
        ("UI", MRImageStorage, "1"),
        ("OB", b"anything", "1"),
        ("AT", 0x00100010, "1-n"),
    ],
)
def test_sound_values(representation: str, value: object, multiplicity: str) -> None:
    assert is_sound(element(representation, value), multiplicity)


@pytest.mark.parametrize(
    ("representation", "value", "multiplicity"),
    [
        ("CS", "Quixote", "1"),
        ("CS", "QUIXOTE^ALONSO", "1"),
        ("UI", "1.2.3.4", "1"),
        ("UI", "Quixote", "1"),
        ("US", b"Quixote", "1"),
        ("US", [1, 2, 3], "1"),
        ("US", [1, 2, 3], "1-2"),
        ("US", 1, "2-n"),
        ("OB", "Quixote", "1"),
        ("DS", "\u0661", "1"),  # a digit, but not one of DICOM's
    ],
)
def test_unsound_values(representation: str, value: object, multiplicity: str) -> None:
    assert not is_sound(element(representation, value), multiplicity)


def test_what_cannot_be_converted_is_not_read() -> None:
    dataset = Dataset()
    dataset.add(element("DS", "1"))
    dataset[0x00189999]._value = None
    broken = Dataset()

    assert read(broken, Tag(0x00189999)) is None
    assert listed(read(dataset, Tag(0x00189999))) == []
    assert text(None) == ""


@pytest.mark.parametrize(
    "keyword", ["SeriesDate", "StudyTime", "AcquisitionDateTime", "DeviceSerialNumber", "SelectorOBValue"]
)
def test_a_dummy_is_valid_and_says_nothing(keyword: str) -> None:
    """Validation is pydicom's own, and a warning is an error."""
    dataset = Dataset()
    setattr(dataset, keyword, None)

    first = dummy(dataset[keyword])

    assert not first.is_empty
    assert first == dummy(first)
    assert representations(first) == [first.VR]


def test_an_empty_sequence_has_no_items() -> None:
    dataset = Dataset()
    dataset.ReferencedStudySequence = [Dataset()]

    assert list(emptied(dataset["ReferencedStudySequence"]).value) == []

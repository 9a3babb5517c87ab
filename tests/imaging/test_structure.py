"""A data set's shape, measured before it is parsed, is the shape that pydicom then finds."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from imaging import structure
from imaging.dicom import quiet
from imaging.reasons import Reason
from imaging.structure import is_implicit, measure
from protocol.errors import DicomError
from tests.imaging.dicoms import (
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    UNDEFINED,
    element,
    image,
    implicit,
    nested,
)

TEXT = st.text("ABC 123", max_size=8)


def datasets(depth: int = 3) -> st.SearchStrategy[Dataset]:
    """Data sets of texts and of sequences of data sets, of defined and undefined length."""
    inner = st.lists(datasets(depth - 1), max_size=3) if depth else st.just([])
    return st.builds(_dataset, TEXT, TEXT, inner, st.booleans())


def _dataset(name: str, description: str, items: list[Dataset], undefined: bool) -> Dataset:  # noqa: FBT001
    dataset = Dataset()
    dataset.PatientID, dataset.SeriesDescription = name, description
    dataset.ReferencedImageSequence = items
    dataset["ReferencedImageSequence"].is_undefined_length = undefined
    for item in items:
        item.is_undefined_length_sequence_item = undefined
    return dataset


def written(dataset: Dataset, *, implicit_vr: bool) -> bytes:
    """A data set's bytes."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit_vr, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()


@given(datasets(), st.booleans())
def test_an_honest_data_set_ends_where_its_bytes_end(dataset: Dataset, implicit_vr: bool) -> None:  # noqa: FBT001
    data = written(dataset, implicit_vr=implicit_vr)

    assert measure(data, 0, implicit=implicit_vr, little=True) == len(data)


@given(datasets(1), st.integers(0, 400), st.integers(0, 255))
def test_a_wrong_byte_raises_nothing_but_a_dicom_error(dataset: Dataset, at: int, byte: int) -> None:
    """And what passes is parsed by pydicom without an exception."""
    data = bytearray(written(dataset, implicit_vr=False))
    data[at % len(data)] = byte
    try:
        end = measure(bytes(data), 0, implicit=is_implicit(data, 0), little=True)
    except DicomError:
        return
    with quiet():
        read_dataset(io.BytesIO(data[:end]), is_implicit(data, 0), True)


def test_the_header_ends_before_the_pixels() -> None:
    data = image()

    assert data[measure(data, 0, implicit=False, little=True) :].startswith(b"\xe0\x7f\x10\x00OW")


def test_an_element_cut_off_ends_the_header_before_it() -> None:
    whole = element((8, 0x60), "CS", b"MR")

    assert measure(whole + element((8, 0x70), "LO", b"x", 99), 0, implicit=False, little=True) == len(whole)


def test_a_group_ends_where_the_next_begins() -> None:
    data = element((2, 0x10), "UI", b"1.2\0") + element((8, 0x60), "CS", b"MR")

    assert measure(data, 0, implicit=False, little=True, group=2) == 12


def test_implicit_items_in_an_explicit_data_set_are_walked() -> None:
    """Some writers do so in sequences of unknown type (PS3.5 section 6.2.2)."""
    inner = implicit(ITEM, b"", UNDEFINED) + implicit((8, 0x60), b"MR") + implicit(ITEM_END, b"")
    data = element((9, 0x1010), "UN", inner + implicit(SEQUENCE_END, b""), UNDEFINED)

    assert measure(data + element((8, 0x60), "CS", b"MR"), 0, implicit=False, little=True) == len(data) + 10


def test_bytes_that_look_like_a_sequence_and_are_none_do_no_harm() -> None:
    data = element((9, 0x1010), "UN", implicit(ITEM, b"", 9999) + b"pixels")

    assert measure(data, 0, implicit=False, little=True) == len(data)


@pytest.mark.parametrize(
    ("depth", "refused"), [(structure.MOST_DEEP, False), (structure.MOST_DEEP + 1, True)]
)
def test_sequences_may_nest_so_deep_and_no_deeper(depth: int, refused: bool) -> None:  # noqa: FBT001
    data = nested(depth)
    if not refused:
        assert measure(data, 0, implicit=False, little=True) == len(data)
        return
    with pytest.raises(DicomError, match="64") as caught:
        measure(data, 0, implicit=False, little=True)
    assert caught.value.reason == Reason.TOO_DEEP


def test_items_that_pydicom_would_read_and_the_walk_would_not_are_refused() -> None:
    """A sequence of undefined length in an item of defined length: pydicom reads on to the delimiter."""
    smuggled = implicit(ITEM, b"") * 3
    open_ended = element((8, 0x1140), "SQ", b"", UNDEFINED)
    data = element(
        (8, 0x1140), "SQ", implicit(ITEM, open_ended) + smuggled + implicit(SEQUENCE_END, b""), UNDEFINED
    )

    with pytest.raises(DicomError) as caught:
        measure(data, 0, implicit=False, little=True)
    assert caught.value.reason == Reason.UNREADABLE

"""DICOM for tests: images that come with pydicom, one made from nothing, and where secrets hide in it."""

import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from imaging.pseudonyms import Pseudonyms

KEY = Pseudonyms(bytes(range(32)))
ANOTHER_KEY = Pseudonyms(bytes(32))
ROOT = "1.2.826.0.1.3680043.10.999"
"""Of UIDs that were never anybody's."""


def shipped(name: str) -> FileDataset:
    """One of the real files that pydicom ships."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return pydicom.dcmread(path)


def image(**attributes: Any) -> Dataset:
    """A small MR slice of a head, with what a patient's file has."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": f"{ROOT}.1.2.3",
        "StudyInstanceUID": f"{ROOT}.1",
        "SeriesInstanceUID": f"{ROOT}.1.2",
        "FrameOfReferenceUID": f"{ROOT}.4",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "Modality": "MR",
        "PatientName": "Quixote^Alonso",
        "PatientID": "MANCHA-1605",
        "PatientBirthDate": "15470929",
        "StudyDate": "20190130",
        "StudyTime": "233000",
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 4,
        "Columns": 6,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": b"".join(value.to_bytes(2, "little") for value in range(24)),
    }
    for keyword, value in (values | attributes).items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    return dataset


def written(dataset: Dataset) -> bytes:
    """A file's bytes."""
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def read(data: bytes) -> FileDataset:
    """A dataset as ingest gets it: its values not yet converted."""
    return pydicom.dcmread(BytesIO(data))


def every_element(dataset: Dataset, *, lenient: bool = False) -> Iterator[DataElement]:
    """All elements at all depths; `lenient` passes over what cannot be read."""
    for tag in dataset.keys():  # noqa: SIM118
        try:
            element = dataset[tag]
        except Exception:
            if lenient:
                continue
            raise
        yield element
        for item in element.value if element.VR == "SQ" else ():
            yield from every_element(item, lenient=lenient)


def nested(dataset: Dataset, depth: int) -> Dataset:
    """A dataset that has `dataset` that deep, in sequences that images may keep."""
    for _ in range(depth):
        outer = Dataset()
        outer.SharedFunctionalGroupsSequence = Sequence([dataset])
        dataset = outer
    return dataset


def faults(path: Path) -> set[str]:
    """What dciodvfy, an independent judge of DICOM objects, calls an error."""
    told = subprocess.run(
        [Path(sys.executable).with_name("dciodvfy"), path], capture_output=True, check=False, errors="replace"
    )
    return {line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")}

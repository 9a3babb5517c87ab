"""What all that is derived from a series has in common: patient and study, equipment, limits of texts.

Patient and study are copied from the series, as DICOM demands of what is derived from it. Codes for
what a recipe calls a head exist in no standard: they are private ones, with the recipe's own word.
"""

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from imaging.dicom import quiet, read_header
from imaging.provenance import MANUFACTURER, PRODUCT, Provenance
from imaging.reasons import Reason
from imaging.series import Stack
from protocol.errors import DicomError

# It logs instances' UIDs, and quotes a name that it takes for none.
logging.getLogger("highdicom").setLevel(logging.CRITICAL)

Labels = NDArray[np.uint8]
"""`(X, Y, Z)` in a stack's columns, rows and slices: 0, or 1 ... classes."""

LONG_STRING, SHORT_STRING, SHORT_TEXT = 64, 16, 1024
"""Characters that such a value may have (PS3.5 6.2)."""
SCHEME = "99CONSILIUM"
"""Of codes that no standard has; names of such schemes begin with 99 (PS3.16 8.2)."""
SERIES_NUMBERS = 900
"""Series of results are numbered from here, behind what scanners make."""

_TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
"""May be empty but must be there (PS3.3 C.7.1.1, C.7.2.1); archives leave them out all the same."""
_SEXES = ("M", "F", "O")


@dataclass(frozen=True)
class Segmented:
    """What was found of a segmentation head: `volumes_mm3` of each class, `entropy_bits` of a mean voxel."""

    labels: Labels
    volumes_mm3: tuple[float, ...]
    entropy_bits: float


@dataclass(frozen=True)
class Classified:
    """What was found of another head: what it is -> its value; no entropy where there is no probability."""

    measures: Mapping[str, float]
    entropy_bits: float | None


@dataclass(frozen=True)
class Source:
    """What results are derived from: a stack, and its files' headers in the order of its slices."""

    stack: Stack
    headers: tuple[Dataset, ...]


def source_of(stack: Stack) -> Source:
    """Return a stack with its headers, made complete enough to derive from."""
    paths = dict.fromkeys(frame.path for frame in stack.frames)
    return Source(stack, tuple(_complete(read_header(path)) for path in paths))


def _complete(header: Dataset) -> Dataset:
    with quiet():
        for keyword in _TYPE_2:
            if header.get(keyword) is None:
                setattr(header, keyword, "")
        if header.PatientSex not in _SEXES:
            header.PatientSex = ""
    return header


@contextmanager
def deriving() -> Generator[None]:
    """Say of what highdicom stumbles over in a header only what it is called: the rest may name a patient."""
    try:
        with quiet():
            yield
    except (DicomError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - headers break every rule
        what = f"no result can be derived from the reference's header ({type(error).__name__})"
        raise DicomError(Reason.NOT_DERIVED, f"{what}: choose another series as reference") from None


def code(word: str) -> CodedConcept:
    """Return a private code for a word that no standard has; a long word's is its hash."""
    value = word if len(word) <= SHORT_STRING else sha256(word.encode()).hexdigest()[:SHORT_STRING]
    return CodedConcept(value, SCHEME, word[:LONG_STRING])


def instance(made: Provenance, series: int, description: str) -> dict[str, Any]:
    """Return what every new instance says of itself: identifiers, equipment, a series of its own."""
    return {
        "series_instance_uid": hd.UID(),
        "series_number": SERIES_NUMBERS + series,
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": PRODUCT,
        "software_versions": made.software,
        "device_serial_number": "0",
        "series_description": f"{description}, research use only"[:LONG_STRING],
    }


def label_of(head: str, number: int, classes: int) -> str:
    """Return what a class is called: the head's name, with its number where there are several."""
    return head if classes == 1 else f"{head} {number}"

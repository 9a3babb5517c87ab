"""De-identification of DICOM images: PS3.15 Annex E, Basic Profile, three options, and default deny.

    clean, verdict = deidentify(dataset, pseudonyms)

A new dataset is built from what may stay; nothing is deleted from the old one, so what was forgotten is
absent and not present. What may stay is data (`imaging/confidentiality.py`), and the same rules hold at every
depth of nested sequences:

    names, numbers, UIDs   replaced by keyed stand-ins (`imaging/pseudonyms.py`): a patient's images still
                           belong together
    dates and times        moved by one offset for each patient (`imaging/dates.py`; option Retain
                           Longitudinal Temporal Information, Modified Dates)
    descriptions           only listed words stay (option Clean Descriptors), and none of the patient's own
                           name
    names of outlines      replaced by a keyed stand-in too: people write anything there
    codes                  with their official meanings, or none (`imaging/coded.py`)
    numbers, coded words   stay if they are what they should be (`imaging/values.py`)
    private attributes     only listed numbers stay (option Retain Safe Private), and how a mosaic's tiles lie
    preamble, file meta    written anew
    pixels                 text may be burned in (`imaging/burned_in.py`): quarantined, or blackened by a
                           site's rule; what else pixel data hold goes (`imaging/pixel_bytes.py`)
"""

import re
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import zip_longest

from pydicom import config
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from imaging import coded, mosaic_header
from imaging.burned_in import Blackening, Verdict, review
from imaging.confidentiality import DENIED, EDITION, Action, rules, safe_private, words
from imaging.dates import shifted_date, shifted_datetime, shifted_time
from imaging.pixel_bytes import scrub
from imaging.pseudonyms import Pseudonyms
from imaging.values import (
    LONGEST,
    NUMBERS,
    dummy,
    emptied,
    is_sound,
    listed,
    read,
    renewed,
    representations,
    text,
    told,
)

DEEPEST = 12
"""Sequences nested deeper are removed: no image needs them, and a thousand levels overflow the stack."""

NO_PREAMBLE = bytes(128)

PROFILES = ("113100", "113105", "113107", "113111")
"""CID 7050: Basic Profile, Clean Descriptors, Modified Dates, Safe Private."""
CLEAN_PIXELS = "113101"

_SHORTEST_NAME = 4  # of a name that no coded string may contain; phantoms are called MR
_WORD = re.compile(r"[A-Za-z0-9]+")
_SEAM = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z0-9])")  # AxT2Flair is Ax T2 Flair


@dataclass(frozen=True)
class Patient:
    """Whose dataset it is: a pseudonym, the offset of their dates, the words that would give them away."""

    pseudonyms: Pseudonyms
    name: str
    offset: timedelta
    own_words: frozenset[str]


@dataclass(frozen=True)
class Place:
    """Where an element stands: in which dataset, how deep, and whose."""

    dataset: Dataset
    depth: int
    patient: Patient


def deidentify(
    dataset: Dataset, pseudonyms: Pseudonyms, blackenings: tuple[Blackening, ...] = ()
) -> tuple[Dataset, Verdict]:
    """Return what may stay of an image, ready for `save_as`, and whether it may be used.

    Whose it is, says its PatientID, also where the image itself has no number of a patient. `dataset` is as
    pydicom reads it and is not changed. `blackenings` are the site's, for devices that burn text into
    pixels. An image whose verdict names a reason for quarantine must not be used: its header is clean, its
    pixels may not be. Not for threads: pydicom is told to be quiet for the whole process.
    """
    with _quiet():
        patient = _patient(dataset, pseudonyms)
        clean = _kept(Place(dataset, 0, patient))
        clean.PatientID = patient.name
        clean.file_meta = _file_meta(dataset, clean)
        clean.preamble = NO_PREAMBLE
        hidden = scrub(clean, dataset)
        verdict = review(dataset, clean, blackenings)
        verdict = replace(verdict, quarantine=(*hidden, *verdict.quarantine))
        _declare(clean, verdict)
    return clean, verdict


@contextmanager
def _quiet() -> Generator[None]:
    """Pydicom's warnings and log lines quote the values that they are about."""
    silent = config.logger.disabled
    config.logger.disabled = True
    try:
        with config.disable_value_validation(), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        config.logger.disabled = silent


# -- Whose it is ------------------------------------------------------------------------------


def _patient(dataset: Dataset, pseudonyms: Pseudonyms) -> Patient:
    identity = next(filter(None, _identities(dataset)), "")
    names = [told(dataset, k) for k in ("PatientName", "PatientID", "OtherPatientNames", "OtherPatientIDs")]
    own = frozenset(word.lower() for name in names for word in _WORD.findall(name) if len(word) > 1)
    return Patient(pseudonyms, pseudonyms.identifier("patient", identity), pseudonyms.offset(identity), own)


def _identities(dataset: Dataset) -> Iterator[str]:
    """Yield what tells patients apart, best first; without a number or a name, each study is somebody."""
    yield told(dataset, "PatientID")
    name, birth = told(dataset, "PatientName").strip("^"), told(dataset, "PatientBirthDate")
    yield f"{name}\0{birth}" if name and birth else ""
    yield told(dataset, "StudyInstanceUID")
    yield told(dataset, "SOPInstanceUID")


# -- What stays of it -------------------------------------------------------------------------


def _kept(place: Place) -> Dataset:
    clean = Dataset()
    for tag in place.dataset.keys():  # noqa: SIM118 - iterating a dataset converts every value, and may raise
        new = _rewritten(tag, place)
        if new is not None:
            clean.add(new)
    for element in (*_safe_private(place), *mosaic_header.tiles(place.dataset)):
        clean.add(element)
    return clean


def _rewritten(tag: BaseTag, place: Place) -> DataElement | None:
    rule = rules().get(tag, DENIED)
    element = None if rule.action == "remove" else read(place.dataset, tag)
    if element is None:
        return None
    if element.is_empty:
        return emptied(element)
    new = _ACTIONS[rule.action](element, place)
    return _ACTIONS[rule.otherwise](element, place) if new is None else new


def _keep(element: DataElement, place: Place) -> DataElement | None:
    if element.VR not in representations(element):
        return None
    if element.VR == "SQ":
        return _items(element, place)
    fits = is_sound(element, dictionary_VM(element.tag)) and not _is_named(element, place.patient)
    return copy(element) if fits else None


def _is_named(element: DataElement, patient: Patient) -> bool:
    """Say whether a coded string or a count is the patient's name or number; what is measured may be."""
    if element.VR not in {"CS", "IS"}:
        return False
    own = {word for word in patient.own_words - words() if len(word) >= _SHORTEST_NAME}
    return not own.isdisjoint(_WORD.findall(text(element).lower()))


def _items(element: DataElement, place: Place) -> DataElement | None:
    if element.VR != "SQ" or place.depth == DEEPEST:
        return None
    return renewed(element, Sequence([_item(item, place) for item in element.value]))


def _item(item: Dataset, place: Place) -> Dataset:
    clean = _kept(replace(place, dataset=item, depth=place.depth + 1))
    if coded.is_coded(item):
        clean.update(coded.official(item))
    return clean


def _uid(element: DataElement, place: Place) -> DataElement:
    return renewed(element, [place.patient.pseudonyms.uid(str(value)) for value in listed(element)])


def _identifier(element: DataElement, place: Place) -> DataElement:
    return renewed(element, place.patient.pseudonyms.identifier(element.keyword, text(element)))


def _words(element: DataElement, place: Place) -> DataElement | None:
    found = _WORD.findall(_SEAM.sub(" ", text(element)))
    known = [word for each in found if (word := _known(each, place.patient))]
    while len(" ".join(known)) > LONGEST[representations(element)[0]]:
        known.pop()
    return renewed(element, " ".join(known)) if known else None


def _known(word: str, patient: Patient) -> str:
    """Return the part of a word that may stay: `tfl3d` of `tfl3d1`, for the number may be anybody's."""
    plain = word if word.lower() in words() else word.rstrip("0123456789")
    return plain if plain.lower() in words() and plain.lower() not in patient.own_words else ""


def _shift(element: DataElement, place: Place) -> DataElement | None:
    values, offset = [str(value) for value in listed(element)], place.patient.offset
    match representations(element)[0]:
        case "DT":
            moved = [shifted_datetime(value, offset) for value in values]
        case "DA":
            times = _beside(element, place, "Date", "Time")
            moved = [shifted_date(day, time, offset) for day, time in zip_longest(values, times)]
        case _:
            days = _beside(element, place, "Time", "Date")
            moved = [shifted_time(time, day, offset) for time, day in zip_longest(values, days)]
    return None if None in moved else renewed(element, moved)


def _beside(element: DataElement, place: Place, half: str, other: str) -> list[str]:
    """Return the other halves of moments: what `StudyTime` is to `StudyDate`; at most as many."""
    tag = tag_for_keyword(element.keyword.replace(half, other))
    if tag is None or dictionary_VR(tag) not in {"DA", "TM"}:
        return []
    return [str(value) for value in listed(read(place.dataset, Tag(tag)))][: len(listed(element))]


_ACTIONS: dict[Action, Callable[[DataElement, Place], DataElement | None]] = {
    "remove": lambda _, __: None,
    "empty": lambda element, _: emptied(element),
    "dummy": lambda element, _: dummy(element),
    "keep": _keep,
    "items": _items,
    "uid": _uid,
    "identifier": _identifier,
    "label": lambda element, place: renewed(element, place.patient.pseudonyms.label(text(element))),
    "patient": lambda element, place: renewed(element, place.patient.name),
    "words": _words,
    "shift": _shift,
}


def _safe_private(place: Place) -> Iterator[DataElement]:
    """Yield listed private numbers, each with the element that reserves its block (PS3.5 7.8)."""
    for tag in place.dataset.keys():  # noqa: SIM118 - as above
        if not tag.is_private or tag.is_private_creator:
            continue
        block = Tag(tag.group, tag.element >> 8)
        creator = text(read(place.dataset, block))
        multiplicity = safe_private().get((tag.group, creator, tag.element & 0xFF))
        element = read(place.dataset, tag) if multiplicity else None
        if element is not None and multiplicity and element.VR in NUMBERS and is_sound(element, multiplicity):
            yield DataElement(block, "LO", creator)
            yield copy(element)


# -- What is written anew ---------------------------------------------------------------------


def _file_meta(dataset: Dataset, clean: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = clean.get("SOPClassUID", "")
    meta.MediaStorageSOPInstanceUID = clean.get("SOPInstanceUID", "")
    meta.TransferSyntaxUID = _syntax(dataset)
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return meta


def _syntax(dataset: Dataset) -> UID:
    named = UID(told(getattr(dataset, "file_meta", Dataset()), "TransferSyntaxUID"))
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian
    found = ImplicitVRLittleEndian if implicit else explicit
    return named if named.type == "Transfer Syntax" else found


def _declare(clean: Dataset, verdict: Verdict) -> None:
    """Say what was done, as PS3.15 E.1.1 and the options' sections want it."""
    clean.SpecificCharacterSet = "ISO_IR 192"
    clean.PatientIdentityRemoved = "YES"
    clean.LongitudinalTemporalInformationModified = "MODIFIED"
    clean.DeidentificationMethod = f"{EDITION} Basic Profile, default deny"
    done = (*PROFILES, CLEAN_PIXELS) if verdict.blackened else PROFILES
    clean.DeidentificationMethodCodeSequence = Sequence([coded.entry(code, "DCM") for code in done])
    if verdict.flags:
        clean.RecognizableVisualFeatures = "YES"

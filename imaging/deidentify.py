"""De-identification of DICOM images: PS3.15 Annex E, Basic Profile, three options, and default deny.

    clean, verdict = deidentify(dataset, pseudonyms)

A new dataset is built from what may stay; nothing is deleted from the old one, so what was forgotten is
absent and not present. What may stay is data (`imaging/confidentiality.py`), and the same rules hold at every
depth of nested sequences. Besides:

    names, numbers, UIDs   replaced by keyed stand-ins (`imaging/pseudonyms.py`): a patient's images still
                           belong together
    dates and times        moved by one offset for each patient (`imaging/dates.py`; option Retain
                           Longitudinal Temporal Information, Modified Dates)
    descriptions           only listed words stay (option Clean Descriptors), and none of the patient's own
                           name
    private attributes     only listed numbers stay (option Retain Safe Private)
    preamble, file meta    written anew
    pixels                 text may be burned in (`imaging/burned_in.py`): quarantined, or blackened by a
                           site's rule; what else pixel data hold goes (`imaging/pixel_bytes.py`)

A value stays only if it is what its attribute promises: DICOM lets a file put a name where a number belongs,
and many readers hand it on.
"""

import re
import warnings
from collections.abc import Callable, Generator, Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from imaging import coded
from imaging.burned_in import Blackening, Verdict, review
from imaging.confidentiality import DENIED, EDITION, Action, rules, safe_private, words
from imaging.dates import shifted_date, shifted_datetime, shifted_time
from imaging.pixel_bytes import scrub
from imaging.pseudonyms import Pseudonyms

DEEPEST = 12
"""Sequences nested deeper are removed: no image needs them, and a thousand levels overflow the stack."""

NO_PREAMBLE = bytes(128)

PROFILES = ("113100", "113105", "113107", "113111")
"""CID 7050: Basic Profile, Clean Descriptors, Modified Dates, Safe Private."""
CLEAN_PIXELS = "113101"

_DUMMIES: dict[str, Any] = {
    "AS": "000D", "DA": "19000101", "DT": "19000101000000", "TM": "000000", "UR": "removed:",
    "DS": "0", "IS": "0", "FD": 0.0, "FL": 0.0, "SL": 0, "SS": 0, "SV": 0, "UL": 0, "US": 0, "UV": 0,
    "OB": b"\0\0", "OD": bytes(8), "OF": bytes(4), "OL": bytes(4), "OV": bytes(8), "OW": b"\0\0",
    "UN": b"\0\0",
}  # fmt: skip
_TEXT_DUMMY = "REMOVED"
_LONGEST = {"CS": 16, "LO": 64, "SH": 16, "ST": 64}
_SHORTEST_NAME = 4  # of a name that no coded string may contain; phantoms are called MR

_NUMBERS = {"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"}
_BYTES = {"OB", "OD", "OF", "OV", "OW"}
_FORMS = {
    "CS": re.compile(r"[A-Z0-9_ ]{0,16}"),
    "DS": re.compile(r"[-+.0-9eE ]{1,32}"),  # the standard's 16 are exceeded in practice
    "IS": re.compile(r" *[-+]?[0-9]{1,10} *"),
}
_WORD = re.compile(r"[A-Za-z0-9]+")
_SEAM = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z0-9])")  # AxT2Flair is Ax T2 Flair


@dataclass(frozen=True)
class Patient:
    """Whose dataset it is: a pseudonym, the offset of their dates, the words that would give them away."""

    pseudonyms: Pseudonyms
    name: str
    offset: timedelta
    own_words: frozenset[str]


def deidentify(
    dataset: Dataset, pseudonyms: Pseudonyms, blackenings: tuple[Blackening, ...] = ()
) -> tuple[Dataset, Verdict]:
    """Return what may stay of an image, ready for `save_as`, and whether it may be used.

    `dataset` is as pydicom reads it and is not changed. `blackenings` are the site's, for devices that burn
    text into pixels. An image whose verdict names a reason for quarantine must not be used: its header is
    clean, its pixels may not be.
    """
    with _quiet():
        clean = _kept(dataset, _patient(dataset, pseudonyms))
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
    texts = [_text(dataset, k) for k in ("PatientName", "PatientID", "OtherPatientNames", "OtherPatientIDs")]
    own = frozenset(word.lower() for text in texts for word in _WORD.findall(text) if len(word) > 1)
    return Patient(pseudonyms, pseudonyms.identifier("patient", identity), pseudonyms.offset(identity), own)


def _identities(dataset: Dataset) -> Iterator[str]:
    """Yield what tells patients apart, best first; without a number or a name, each study is somebody."""
    yield _text(dataset, "PatientID")
    name, birth = _text(dataset, "PatientName").strip("^"), _text(dataset, "PatientBirthDate")
    yield f"{name}\0{birth}" if name and birth else ""
    yield _text(dataset, "StudyInstanceUID")
    yield _text(dataset, "SOPInstanceUID")


def _text(dataset: Dataset, keyword: str) -> str:
    element = _read(dataset, Tag(keyword))
    return "" if element is None else "\\".join(map(str, _values(element))).strip()


# -- What stays of it -------------------------------------------------------------------------


def _kept(dataset: Dataset, patient: Patient, depth: int = 0) -> Dataset:
    clean = Dataset()
    for tag in dataset.keys():  # noqa: SIM118 - iterating a dataset converts every value, and may raise
        element = _read(dataset, tag)
        new = None if element is None else _rewritten(element, dataset, patient, depth)
        if new is not None:
            clean.add(new)
    for element in _safe_private(dataset, patient):
        clean.add(element)
    return clean


def _read(dataset: Dataset, tag: int) -> DataElement | None:
    try:
        return dataset.get(Tag(tag))
    except Exception:  # noqa: BLE001 - whatever pydicom stumbles over: what cannot be read cannot be checked
        return None


def _rewritten(element: DataElement, dataset: Dataset, patient: Patient, depth: int) -> DataElement | None:
    rule = rules().get(element.tag, DENIED)
    if rule.action == "remove":
        return None
    new = _ACTIONS["empty" if element.is_empty else rule.action](element, dataset, patient, depth)
    return _ACTIONS[rule.otherwise](element, dataset, patient, depth) if new is None else new


def _remove(*_: Any) -> None:
    return None


def _empty(element: DataElement, *_: Any) -> DataElement:
    return _new(element, Sequence() if _representation(element) == "SQ" else None)


def _dummy(element: DataElement, *_: Any) -> DataElement:
    return _new(element, _DUMMIES.get(_representation(element), _TEXT_DUMMY))


def _keep(element: DataElement, dataset: Dataset, patient: Patient, depth: int) -> DataElement | None:
    if element.VR not in _representations(element):
        return None
    if element.VR == "SQ":
        return _items(element, dataset, patient, depth)
    return element if _sound(element, dictionary_VM(element.tag), patient) else None


def _items(element: DataElement, _: Dataset, patient: Patient, depth: int) -> DataElement | None:
    if element.VR != "SQ" or depth == DEEPEST:
        return None
    return _new(element, Sequence([_item(item, patient, depth + 1) for item in element.value]))


def _item(item: Dataset, patient: Patient, depth: int) -> Dataset:
    clean = _kept(item, patient, depth)
    if coded.is_coded(item):
        clean.update(coded.official(item))
    return clean


def _uid(element: DataElement, _: Dataset, patient: Patient, __: int) -> DataElement:
    return _new(element, [patient.pseudonyms.uid(str(value)) for value in _values(element)])


def _identifier(element: DataElement, _: Dataset, patient: Patient, __: int) -> DataElement:
    text = "\\".join(map(str, _values(element)))
    return _new(element, patient.pseudonyms.identifier(element.keyword, text))


def _pseudonym(element: DataElement, _: Dataset, patient: Patient, __: int) -> DataElement:
    return _new(element, patient.name)


def _words(element: DataElement, _: Dataset, patient: Patient, __: int) -> DataElement | None:
    found = (_WORD.findall(_SEAM.sub(" ", str(value))) for value in _values(element))
    listed = [word for each in chain.from_iterable(found) if (word := _listed(each, patient))]
    while len(" ".join(listed)) > _LONGEST[_representation(element)]:
        listed.pop()
    return _new(element, " ".join(listed)) if listed else None


def _listed(word: str, patient: Patient) -> str:
    """`tfl3d1` is `tfl3d`, and a number behind a word may be anybody's."""
    plain = word if word.lower() in words() else word.rstrip("0123456789")
    return plain if plain.lower() in words() - patient.own_words else ""


def _shift(element: DataElement, dataset: Dataset, patient: Patient, _: int) -> DataElement | None:
    representation, offset = _representation(element), patient.offset
    values = [str(value) for value in _values(element)]
    if representation == "DT":
        moved = [shifted_datetime(value, offset) for value in values]
    elif representation == "DA":
        times = _beside(dataset, element.keyword.replace("Date", "Time"), "TM")
        moved = [shifted_date(day, time, offset) for day, time in zip_longest(values, times[: len(values)])]
    else:
        days = _beside(dataset, element.keyword.replace("Time", "Date"), "DA")
        moved = [shifted_time(time, day, offset) for time, day in zip_longest(values, days[: len(values)])]
    return None if None in moved else _new(element, moved)


def _beside(dataset: Dataset, keyword: str, representation: str) -> list[str]:
    """Return the other half of a moment: what `StudyTime` is to `StudyDate`."""
    tag = tag_for_keyword(keyword)
    if tag is None or dictionary_VR(tag) != representation or (element := _read(dataset, tag)) is None:
        return []
    return [str(value) for value in _values(element)]


_Rewrite = Callable[[DataElement, Dataset, Patient, int], DataElement | None]
_ACTIONS: dict[Action, _Rewrite] = {
    "remove": _remove,
    "empty": _empty,
    "dummy": _dummy,
    "keep": _keep,
    "items": _items,
    "uid": _uid,
    "identifier": _identifier,
    "patient": _pseudonym,
    "words": _words,
    "shift": _shift,
}


def _safe_private(dataset: Dataset, patient: Patient) -> Iterator[DataElement]:
    """Yield listed private numbers, each with the element that reserves its block (PS3.5 7.8)."""
    for tag in dataset.keys():  # noqa: SIM118 - as above
        reservation = Tag(tag.group, tag.element >> 8)
        if not tag.is_private or tag.is_private_creator or reservation not in dataset:
            continue
        creator = _read(dataset, reservation)
        name = str(creator.value) if creator else ""
        multiplicity = safe_private().get((tag.group, name, tag.element & 0xFF))
        element = _read(dataset, tag) if multiplicity else None
        if element is None or not multiplicity or element.VR not in {*_NUMBERS, "DS", "IS"}:
            continue
        if _sound(element, multiplicity, patient):
            yield DataElement(reservation, "LO", name)
            yield element


# -- Values -----------------------------------------------------------------------------------


def _new(element: DataElement, value: Any) -> DataElement:
    return DataElement(element.tag, _representation(element), value)


def _representations(element: DataElement) -> list[str]:
    """What PS3.6 lets the attribute be; where it does not know it, what the file says."""
    return dictionary_VR(element.tag).split(" or ") if dictionary_has_tag(element.tag) else [element.VR]


def _representation(element: DataElement) -> str:
    return _representations(element)[0]


def _values(element: DataElement) -> list[Any]:
    if element.value is None:
        return []
    return list(element.value) if isinstance(element.value, MutableSequence) else [element.value]


def _sound(element: DataElement, multiplicity: str, patient: Patient) -> bool:
    """Say whether a value is what its attribute promises (PS3.5 6.2 and 6.4), and not the patient's name."""
    values = _values(element)
    if not _fits(len(values), multiplicity):
        return False
    if element.VR in _NUMBERS:
        return all(isinstance(value, int | float) for value in values)
    if element.VR in _BYTES:
        return isinstance(element.value, bytes)
    if element.VR == "UI":
        return all(UID(str(value), config.IGNORE).type for value in values)
    texts = [str(value) for value in values]
    return all(_FORMS[element.VR].fullmatch(text) for text in texts) and not _named(element, texts, patient)


def _fits(count: int, multiplicity: str) -> bool:
    """`1`, `1-3` or `2-n`: a number that swallows the rest of a broken file has thousands of values."""
    least, _, most = multiplicity.partition("-")
    return int(least) <= count and (most.endswith("n") or count <= int(most or least))


def _named(element: DataElement, texts: list[str], patient: Patient) -> bool:
    """Say whether a coded string or a count is the patient's name or number; what is measured may be."""
    own = {word for word in patient.own_words - words() if len(word) >= _SHORTEST_NAME}
    return element.VR != "DS" and not own.isdisjoint(_WORD.findall(" ".join(texts).lower()))


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
    told = UID(str(getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID", "")))
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian
    found = ImplicitVRLittleEndian if implicit else explicit
    return told if told.type == "Transfer Syntax" else found


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

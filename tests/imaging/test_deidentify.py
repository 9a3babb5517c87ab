"""Nothing that identifies gets out: not from any attribute, at any depth, in any guise."""

import logging
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_dict
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from imaging import deidentify as module
from imaging.burned_in import Blackening
from imaging.confidentiality import rules, safe_private, table, words
from imaging.deidentify import DEEPEST, Place, deidentify
from imaging.pseudonyms import DAY, Pseudonyms
from tests.imaging.files import real
from tests.imaging.identified import (
    ANOTHER_KEY,
    KEY,
    ROOT,
    every_element,
    faults,
    image,
    nested,
    read,
    shipped,
    written,
)

MARK = "ZQCANARY"
ROWS = [row["tag"].replace("xxxxxx", "003000").replace("xx", "00") for row in table()]
TABLE = [int(tag, 16) for tag in ROWS if tag != "PRIVATE"]
UNWRITABLE = {0x0000, 0x0002}
"""Groups that are not of a dataset: of commands, and of the file's own header."""


class Canaries:
    """Values that stand nowhere else, each fit for its representation, and what to look for afterwards."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}  # what to look for -> where it was
        self.days = 0

    def value(self, representation: str, where: str) -> Any:
        number = len(self.planted)
        if representation in {"AS", "AT", "US"}:  # too short to be looked for
            return "031W" if representation == "AS" else number
        text = {
            "UI": f"{ROOT}.777.{number}",
            "DA": f"1723{self.days // 28 + 1:02}{self.days % 28 + 1:02}",  # none moves onto another
            "TM": f"1723{number % 60:02}.{number:06}",
            "DT": f"17231105{number % 24:02}4217.{number:06}",
            "DS": f"77123{number:05}",
            "IS": f"88123{number:05}",
            "UR": f"http://{MARK}{number}.example",
        }.get(representation, f"{MARK}{number}")
        self.days += representation == "DA"
        self.planted[text] = where
        if representation in {"OB", "OW", "UN"}:
            return f"{text}{'' if len(text) % 2 == 0 else ' '}".encode()
        return text

    def element(self, tag: int, where: str, representation: str | None = None) -> DataElement:
        told = dictionary_VR(tag) if dictionary_has_tag(tag) else "LO"
        representation = representation or ("OB" if " or " in told else told)
        if representation == "SQ":
            return DataElement(tag, "SQ", Sequence([self.item(where)]))
        return DataElement(tag, representation, self.value(representation, f"{where} {Tag(tag)}"))

    def item(self, where: str) -> Dataset:
        item = Dataset()
        for tag in (0x00080104, 0x00100010, 0x00080018, 0x0040A160):  # meaning, name, UID, text
            item.add(self.element(tag, f"{where}, item"))
        return item

    def found(self, data: bytes) -> set[str]:
        """Where those came from that are in these bytes."""
        return {where for text, where in self.planted.items() if text.encode() in data}


def plant(canaries: Canaries) -> Dataset:
    """An image with a canary wherever DICOM has room for one."""
    dataset, inner = image(), Dataset()
    for tag in TABLE:
        if tag >> 16 not in UNWRITABLE:
            dataset.add(canaries.element(tag, "top"))
            inner.add(canaries.element(tag, "nested"))
    dataset.update(nested(inner, 2))
    for tag in (0x00091001, 0x00091110, 0x2001102F):
        dataset.add(canaries.element(tag, "private"))
    dataset.add(DataElement(0x00090010, "LO", canaries.value("LO", "private creator")))
    for block, (group, creator, slot) in enumerate(sorted(safe_private()), 0x20):
        dataset.add(DataElement(Tag(group, block), "LO", creator))
        dataset.add(canaries.element(group << 16 | block << 8 | slot, "safe private", "LO"))
    for tag in (0x60021500, 0x60224000, 0x50020010, 0x50042600):
        dataset.add(canaries.element(tag, "overlay or curve"))
    for tag in (0x00181020, 0x00189999, 0x0040FFFE, 0x00400440, 0x00080117):
        dataset.add(canaries.element(tag, "unlisted"))
    for tag in (0x00180050, 0x00180015, 0x00283006):
        dataset.add(canaries.element(tag, "text in a kept attribute", "LO"))
    dataset.add(canaries.element(0x00081150, "an object's UID for its kind"))
    for keyword in ("SeriesDescription", "Manufacturer", "SequenceName"):
        setattr(dataset, keyword, f"T1 {canaries.value('LO', keyword)} AX")
    dataset.PixelData += canaries.value("OB", "behind the pixels")
    return dataset


def file_of(dataset: Dataset, canaries: Canaries) -> Dataset:
    """As read from a file whose preamble and header bear canaries too; with groups that no file has."""
    dataset.preamble = str(canaries.value("LO", "preamble")).encode().ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = canaries.value("AE", "file header")
    dataset.file_meta.PrivateInformationCreatorUID = canaries.value("UI", "file header")
    dataset.file_meta.PrivateInformation = canaries.value("OB", "file header")
    original = read(written(dataset))
    for tag in TABLE:
        if tag >> 16 in UNWRITABLE:
            original.add(canaries.element(tag, "top"))
    return original


def leaks() -> set[str]:
    """Where the canaries came from that got out."""
    canaries = Canaries()
    with config.disable_value_validation():
        original = file_of(plant(canaries), canaries)
    clean, _ = deidentify(original, KEY)
    with config.disable_value_validation():
        return canaries.found(written(clean))


# -- Identifiers ------------------------------------------------------------------------------


def test_no_canary_gets_out(caplog: pytest.LogCaptureFixture) -> None:
    """Of the table at the top or nested, private, in overlays, preamble, header, pixels, or into logs."""
    caplog.set_level(logging.DEBUG)

    assert leaks() == set()
    assert MARK not in caplog.text


def skips_nested(element: DataElement, *_: Any) -> DataElement:
    return element


def keeps_private(place: Place) -> Iterator[DataElement]:
    return (place.dataset[tag] for tag in place.dataset.keys() if tag.is_private)  # noqa: SIM118


def keeps_unlisted(tag: BaseTag, place: Place) -> DataElement | None:
    unlisted = tag not in rules() and tag.group not in UNWRITABLE
    return place.dataset[tag] if unlisted else REWRITTEN(tag, place)


def keeps_values_unseen(*_: Any) -> bool:
    return True


REWRITTEN, FILE_META = module._rewritten, module._file_meta


@pytest.mark.parametrize(
    ("part", "mutant", "where"),
    [
        ("_items", skips_nested, "nested (0010,1000)"),
        ("_safe_private", keeps_private, "private (0009,1001)"),
        ("_rewritten", keeps_unlisted, "unlisted (0040,FFFE)"),
        ("is_sound", keeps_values_unseen, "an object's UID for its kind (0008,1150)"),
        ("_words", skips_nested, "SeriesDescription"),
        ("_uid", skips_nested, "top (0008,0018)"),
        ("_shift", skips_nested, "top (0008,0020)"),
        ("dummy", skips_nested, "top (0012,0010)"),
        ("scrub", lambda *_: (), "behind the pixels"),
        ("_file_meta", lambda dataset, _: dataset.file_meta, "file header"),
    ],
)
def test_mutants_are_caught(part: str, mutant: Any, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves out one thing that de-identification does."""
    for action in [name for name, each in module._ACTIONS.items() if each is getattr(module, part)]:
        monkeypatch.setitem(module._ACTIONS, action, mutant)
    monkeypatch.setattr(module, part, mutant)

    assert where in leaks()


def test_a_preamble_that_is_kept_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def copies(dataset: Dataset, clean: Dataset) -> Any:
        monkeypatch.setattr(module, "NO_PREAMBLE", dataset.preamble)
        return FILE_META(dataset, clean)

    monkeypatch.setattr(module, "_file_meta", copies)

    assert "preamble" in leaks()


def test_canaries_are_where_they_should_be() -> None:
    """What is looked for was there: all of the file but what none can have."""
    canaries = Canaries()
    with config.disable_value_validation():
        dataset = plant(canaries)
        file_of(dataset, canaries)
        there = canaries.found(written(dataset))

    assert len(canaries.planted) > 1300
    absent = set(canaries.planted.values()) - there
    assert [where for where in absent if not where.startswith("top (000")] == []


def test_an_unlisted_attribute_is_removed() -> None:
    """All that PS3.6 knows, but what our lists name: default deny."""
    dataset = Dataset()
    with config.disable_value_validation():
        for keyword, tag in keyword_dict.items():
            if tag not in rules() and tag >> 16 not in UNWRITABLE and keyword != "SpecificCharacterSet":
                dataset.add(Canaries().element(tag, ""))
    declared = {0x00080005, 0x00100020, 0x00120062, 0x00120063, 0x00120064, 0x00280303}

    clean, _ = deidentify(dataset, KEY)

    assert len(dataset) > 3500
    assert set(clean.keys()) == declared
    assert MARK not in str(clean)


# -- What is kept, and how --------------------------------------------------------------------


def one(**attributes: Any) -> Dataset:
    """A clean image that had these attributes."""
    clean, verdict = deidentify(read(written(image(**attributes))), KEY)
    assert verdict.quarantine == ()
    return read(written(clean))


def test_an_image_stays_an_image() -> None:
    original, clean = image(), one()

    for keyword in ("SOPClassUID", "Modality", "ImageType", "PixelSpacing", "Rows", "PixelData"):
        assert clean[keyword].value == original[keyword].value


def test_what_was_done_is_declared() -> None:
    """PS3.15 E.1.1; CID 7050."""
    clean = one()

    assert (clean.PatientIdentityRemoved, clean.LongitudinalTemporalInformationModified) == (
        "YES",
        "MODIFIED",
    )
    assert clean.DeidentificationMethod == "PS3.15 2026d Basic Profile, default deny"
    assert [(code.CodeValue, code.CodeMeaning) for code in clean.DeidentificationMethodCodeSequence] == [
        ("113100", "Basic Application Confidentiality Profile"),
        ("113105", "Clean Descriptors Option"),
        ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
        ("113111", "Retain Safe Private Option"),
    ]
    assert clean.preamble == bytes(128)
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID


def test_the_original_is_left_alone() -> None:
    """Even where pixels are cut and blackened."""
    original = image(BurnedInAnnotation="YES")
    original.PixelData += MARK.encode()
    before = written(original)

    clean, verdict = deidentify(original, KEY, (Blackening({"Modality": "MR"}, boxes=((0, 0, 2, 2),)),))

    assert written(original) == before
    assert verdict.blackened
    assert clean.PixelData != original.PixelData[: len(clean.PixelData)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("T2_TSE_TRA 3mm", "T2 TSE TRA"),
        ("AxT2Flair", "Ax T2 Flair"),
        ("t1 mprage sag Dr. Rorden 30.01.2019", "t1 mprage sag"),
        ("*tfl3d1_16ns", "tfl3d"),
        ("FLAIR4711", "FLAIR"),
        ("Alonso flair QUIXOTE", "flair"),
        ("Müller^Anna", None),
        ("", ""),
    ],
)
def test_of_a_description_known_words_stay(text: str, kept: str | None) -> None:
    assert one(SpecificCharacterSet="ISO_IR 192", SeriesDescription=text).get("SeriesDescription") == kept


def test_a_word_that_is_the_patients_name_goes() -> None:
    """A patient may be called Brown, or Axial."""
    clean = one(PatientName="Head^Sagittal", SeriesDescription="T1 Sagittal head", BodyPartExamined="HEAD")

    assert clean.SeriesDescription == "T1"
    assert one(ScanOptions="QUIXOTE").get("ScanOptions") is None


@given(st.text(max_size=70))
def test_no_other_word_stays_whatever_the_text(text: str) -> None:
    dataset = image(SpecificCharacterSet="ISO_IR 192")
    with config.disable_value_validation():
        dataset.SeriesDescription = text
    clean, _ = deidentify(dataset, KEY)

    stayed = clean.get("SeriesDescription") or ""
    assert {word.lower() for word in stayed.split()} <= words()
    assert len(stayed) <= 64


def test_a_number_that_swallowed_the_rest_of_a_broken_file_is_removed() -> None:
    """Found in a real file: PixelPaddingValue of 718 numbers, which were the bytes of names and UIDs."""
    dataset = image()
    swallowed = [int.from_bytes(MARK[i : i + 2].encode(), "little") for i in range(0, len(MARK), 2)]
    dataset.add_new("PixelPaddingValue", "US", swallowed)
    assert MARK.encode() in written(dataset)

    clean, _ = deidentify(read(written(dataset)), KEY)

    assert MARK.encode() not in written(clean)


def test_a_listed_private_number_stays_with_its_block() -> None:
    dataset = image()
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x08, "CS", "IMAGE NUM 4")

    clean, _ = deidentify(read(written(dataset)), KEY)

    assert [int(tag) for tag in clean.keys() if tag.is_private] == [0x00190010, 0x0019100C]  # noqa: SIM118
    assert clean.private_block(0x0019, "SIEMENS MR HEADER")[0x0C].value == 1000


def test_sequences_deeper_than_images_have_are_removed() -> None:
    depths = [DEEPEST, DEEPEST + 1, 200]
    inner = [nested(image(), depth) for depth in depths]

    cleaned = [deidentify(dataset, KEY)[0] for dataset in inner]

    assert [any(e.keyword == "Modality" for e in every_element(c)) for c in cleaned] == [True, False, False]


def test_a_file_of_three_thousand_levels_is_no_trouble() -> None:
    """Each level has its length, so that pydicom reads them one by one, and without end."""
    inner = b""
    for _ in range(3000):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(inner)) + inner
        inner = struct.pack("<HH2sHL", 0x5200, 0x9229, b"SQ", 0, len(item)) + item
    data = written(image())
    pixels = data.index(struct.pack("<HH", 0x7FE0, 0x0010))

    clean, _ = deidentify(read(data[:pixels] + inner + data[pixels:]), KEY)

    assert len(written(clean)) < 2000


def told_by_pydicom(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the log quotes a value that is not what it should be."""
    with config.disable_value_validation():
        data = written(image(StudyInstanceUID=f"not a UID {MARK}"))
    with caplog.at_level(logging.WARNING, config.logger.name):  # `imaging.dicom` has silenced it
        deidentify(read(data), KEY)
    return MARK in caplog.text


def test_what_pydicom_warns_of_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert not told_by_pydicom(caplog)
    assert config.logger.disabled is False


def test_a_mutant_that_is_not_quiet_is_caught(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_quiet", nullcontext)

    assert told_by_pydicom(caplog)


# -- Dates and UIDs ---------------------------------------------------------------------------


def visit(day: str, patient: str = "MANCHA-1605", key: Pseudonyms = KEY) -> datetime:
    """The date of a clean image of a patient."""
    clean, _ = deidentify(image(StudyDate=day, StudyTime="120000", PatientID=patient), key)
    return datetime.strptime(f"{clean.StudyDate}{clean.StudyTime}", "%Y%m%d%H%M%S.%f")  # noqa: DTZ007


def test_a_patients_intervals_stay_and_no_two_patients_move_alike() -> None:
    assert visit("20190430") - visit("20190130") == timedelta(days=90)
    assert visit("20190130", "MANCHA-1605") != visit("20190130", "MANCHA-1615")
    assert visit("20190130") != visit("20190130", key=ANOTHER_KEY)
    assert visit("20190130") < datetime(2018, 2, 1)  # noqa: DTZ001


def test_a_mutant_with_one_offset_for_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pseudonyms, "offset", lambda *_: timedelta(days=-1000))

    assert visit("20190130", "MANCHA-1605") == visit("20190130", "MANCHA-1615")


def test_moments_of_all_kinds_move_together() -> None:
    """A scan past midnight, its injection (a time alone), and a frame (a datetime)."""
    injection, frame = Dataset(), Dataset()
    injection.RadiopharmaceuticalStartTime = "230000"
    frame.FrameAcquisitionDateTime = "20190131001500.000000+0100"
    clean = one(
        AcquisitionDate="20190131",
        AcquisitionTime="001500",
        RadiopharmaceuticalInformationSequence=[injection],
        FrameContentSequence=[frame],
    )

    study, acquisition = (moment(clean, kind) for kind in ("Study", "Acquisition"))
    assert acquisition - study == timedelta(minutes=45)
    assert clean.FrameContentSequence[0].FrameAcquisitionDateTime == f"{acquisition:%Y%m%d%H%M%S.%f}"
    started = clean.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime
    assert (study - datetime.strptime(started, "%H%M%S.%f")) % DAY == timedelta(minutes=30)  # noqa: DTZ007


def moment(dataset: Dataset, kind: str) -> datetime:
    text = f"{dataset[f'{kind}Date'].value}{dataset[f'{kind}Time'].value}"
    return datetime.strptime(text, "%Y%m%d%H%M%S.%f")  # noqa: DTZ007


def test_a_date_that_is_none_becomes_what_the_table_says() -> None:
    """X/Z/D, X/Z and X in turn."""
    with config.disable_value_validation():
        dataset = image(
            AcquisitionDateTime="yesterday", AcquisitionDate="Monday", AdmittingDate="when she fell"
        )
    clean, _ = deidentify(dataset, KEY)

    assert clean.AcquisitionDateTime == "19000101000000"
    assert clean["AcquisitionDate"].is_empty
    assert "AdmittingDate" not in clean


def test_references_between_files_stay() -> None:
    target = image(SOPInstanceUID=f"{ROOT}.1.2.8")
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
        target.SOPClassUID,
        target.SOPInstanceUID,
    )
    first, second = one(ReferencedImageSequence=[reference]), deidentify(target, KEY)[0]

    assert first.ReferencedImageSequence[0].ReferencedSOPInstanceUID == second.SOPInstanceUID
    assert first.ReferencedImageSequence[0].ReferencedSOPClassUID == target.SOPClassUID
    assert first.StudyInstanceUID == second.StudyInstanceUID != target.StudyInstanceUID
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.PatientID == second.PatientID == first.PatientName
    assert second.SOPInstanceUID != deidentify(target, ANOTHER_KEY)[0].SOPInstanceUID


@pytest.mark.parametrize(
    ("one_patient", "another", "same"),
    [
        ({"PatientID": "7"}, {"PatientID": "7", "PatientName": "Panza^Sancho"}, True),
        ({"PatientID": "7"}, {"PatientID": "8"}, False),
        ({"PatientID": ""}, {"PatientID": "", "StudyInstanceUID": f"{ROOT}.2"}, True),
        ({"PatientID": ""}, {"PatientID": "", "PatientBirthDate": "15480929"}, False),
        ({"PatientID": "", "PatientName": "^"}, {"PatientID": "", "PatientName": "^"}, True),
        (
            {"PatientID": "", "PatientName": "^"},
            {"PatientID": "", "PatientName": "^", "StudyInstanceUID": f"{ROOT}.2"},
            False,
        ),
    ],
)
def test_who_is_one_patient(one_patient: dict[str, str], another: dict[str, str], same: bool) -> None:  # noqa: FBT001
    first, second = (deidentify(image(**who), KEY)[0] for who in (one_patient, another))

    assert (first.get("PatientName") == second.get("PatientName")) == same
    assert (first.StudyDate == second.StudyDate) == same


# -- Real files -------------------------------------------------------------------------------


def new_faults(original: Dataset, folder: Path) -> set[str]:
    """What dciodvfy says of the clean image that it did not say of the original."""
    clean, _ = deidentify(original, KEY)
    with config.disable_value_validation():
        (folder / "before.dcm").write_bytes(written(original))
        (folder / "after.dcm").write_bytes(written(clean))
    return faults(folder / "after.dcm") - faults(folder / "before.dcm")


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_implicit.dcm",
        "liver_1frame.dcm",
        "SC_rgb_small_odd.dcm",
        "examples_ybr_color.dcm",
    ],
)
def test_no_object_is_less_valid_than_it_was(name: str, tmp_path: Path) -> None:
    """Every attribute of type 1 and 2 is still there."""
    assert new_faults(shipped(name), tmp_path) == set()


@pytest.mark.slow
def test_of_each_scanner_no_object_is_less_valid_than_it_was(tmp_path: Path) -> None:
    """One file of each model, classic and enhanced."""
    with config.disable_value_validation(), catch_warnings(action="ignore"):
        files = [each for path in sorted(real("dicom_vendor_zoo").rglob("*")) if (each := readable(path))]
        images = {
            (f.get("ManufacturerModelName"), f.get("SOPClassUID")): f for f in files if "PixelData" in f
        }

        assert len(images) > 25
        assert {key: new for key, each in images.items() if (new := new_faults(each, tmp_path))} == {}


def test_a_judge_that_would_not_see_it_is_no_judge(tmp_path: Path) -> None:
    clean, _ = deidentify(shipped("MR_small.dcm"), KEY)
    del clean.EchoTime
    (tmp_path / "after.dcm").write_bytes(written(clean))

    assert any("EchoTime" in fault for fault in faults(tmp_path / "after.dcm"))


MR = written(shipped("MR_small.dcm"))


@given(st.lists(st.tuples(st.integers(132, 1900), st.integers(0, 255)), max_size=6))
def test_no_damage_to_a_header_breaks_it(damage: list[tuple[int, int]]) -> None:
    """A real header with a few bytes changed, as far as pydicom still reads it."""
    data = bytearray(MR)
    for place, byte in damage:
        data[place] = byte
    with config.disable_value_validation(), catch_warnings(action="ignore"):
        try:
            original = read(bytes(data))
        except Exception:  # noqa: BLE001 - not this test's matter
            return
    deidentify(original, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["dicom_tricky", "dicom_vendor_zoo"])
def test_of_real_files_nothing_that_identifies_stays(folder: str) -> None:
    """All that read; names and numbers of six characters or more, dates, UIDs."""
    seen = 0
    for path in sorted(real(folder).rglob("*")):
        if (original := readable(path)) is None:
            continue
        clean, _ = deidentify(original, KEY)
        with config.disable_value_validation():
            data = bytes_of(clean)
            assert sorted(secret for secret in secrets_of(original) if secret.encode() in data) == []
        seen += 1
    assert seen > 150


def readable(path: Path) -> Dataset | None:
    try:
        with config.disable_value_validation(), catch_warnings(action="ignore"):
            return pydicom.dcmread(path) if path.is_file() else None
    except Exception:  # noqa: BLE001 - files that are broken on purpose
        return None


def bytes_of(clean: Dataset) -> bytes:
    """Of a quarantined dataset too, which may be no whole object."""
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, clean)
    return file.getvalue()


def secrets_of(original: Dataset) -> set[str]:
    """What a file says of whom, when, and which."""
    found: set[str] = set()
    with config.disable_value_validation(), catch_warnings(action="ignore"):
        for element in every_element(original, lenient=True):
            listed = rules().get(element.tag)
            values = map(str, element.value if element.VM > 1 else [element.value])
            if element.keyword in {
                "PatientName",
                "PatientID",
                "AccessionNumber",
                "OtherPatientIDs",
                "StudyID",
            }:
                found |= {
                    value for value in values if len(value) >= 6 and not set(value.lower().split()) <= words()
                }
            elif listed and listed.action in {"uid", "shift"} and element.VR in {"UI", "DA", "DT"}:
                found |= {value for value in values if len(value) >= 8 and not UID(value, config.IGNORE).type}
    return found - {"REMOVED"}  # somebody else has de-identified some of them

"""Images that may have text in their pixels are held back, or blackened where the site has said so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EncapsulatedPDFStorage, UltrasoundImageStorage

from imaging import burned_in
from imaging.burned_in import Blackening, Verdict, read_blackenings
from imaging.deidentify import deidentify
from protocol.errors import SettingsError
from tests.imaging.identified import KEY, image, read, shipped, written

SAYS = "it says that text is burned into its pixels"
KIND = "images of its kind may have text burned into their pixels"
SCREEN = "it has no place in space, as a saved screen: text may be burned into its pixels"
US = {"SOPClassUID": UltrasoundImageStorage, "Modality": "US"}


def verdict(dataset: Dataset, *blackenings: Blackening) -> Verdict:
    return deidentify(dataset, KEY, blackenings)[1]


def without(*keywords: str, **attributes: Any) -> Dataset:
    dataset = image(**attributes)
    for keyword in keywords:
        del dataset[keyword]
    return dataset


@pytest.mark.parametrize(
    ("dataset", "reasons"),
    [
        (image(), ()),
        (image(SOPClassUID=CTImageStorage, Modality="CT"), ()),
        (image(BurnedInAnnotation="NO"), ()),
        (image(BurnedInAnnotation="YES"), (SAYS,)),
        (image(**US), (KIND,)),
        (image(**US, BurnedInAnnotation="NO"), (KIND,)),
        (image(Modality="OT", ConversionType="WSD"), (KIND,)),
        (image(ConversionType="DF"), (KIND,)),
        (image(Modality="CR", NominalScannedPixelSpacing=[0.1, 0.1]), (KIND,)),
        (without("Modality"), (KIND,)),
        (image(Modality="QX"), (KIND,)),
        (without("ImageOrientationPatient"), (SCREEN,)),
        (without("ImageOrientationPatient", Modality="MG"), ()),
        (without("PixelData"), ("it has no pixels",)),
        (without("SOPInstanceUID"), ("it has no number of its own, SOPInstanceUID",)),
        (image(SOPClassUID=EncapsulatedPDFStorage), ("it is not an image",)),
        (image(SOPClassUID="1.2.3.4"), ("it does not say which of the standard's kinds of object it is",)),
    ],
)
def test_what_is_quarantined(dataset: Dataset, reasons: tuple[str, ...]) -> None:
    assert verdict(dataset).quarantine == reasons


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("MR_small.dcm", ()),
        ("CT_small.dcm", ()),
        ("liver_1frame.dcm", ()),
        ("SC_rgb_small_odd.dcm", (KIND,)),
        ("examples_palette.dcm", (KIND,)),
        ("rtplan.dcm", ("it is not an image", KIND)),
        ("reportsi.dcm", ("it is not an image", KIND)),
    ],
)
def test_of_real_files(name: str, reasons: tuple[str, ...]) -> None:
    assert verdict(shipped(name)).quarantine == reasons


# -- Blackening -------------------------------------------------------------------------------

BANNER = Blackening({"Modality": "US", "Rows": 4, "Columns": 6}, boxes=((0, 0, 6, 2), (5, 2, 6, 3)))


def blackened(dataset: Dataset, rule: Blackening) -> Dataset:
    clean, told = deidentify(read(written(dataset)), KEY, (rule,))
    assert told == Verdict(blackened=True)
    return read(written(clean))


def test_a_sites_boxes_are_blackened_and_nothing_else() -> None:
    clean = blackened(image(**US, BurnedInAnnotation="YES"), BANNER)

    expected = np.arange(24).reshape(4, 6)
    expected[:2], expected[2, 5] = 0, 0
    np.testing.assert_array_equal(clean.pixel_array, expected)
    assert clean.BurnedInAnnotation == "NO"
    assert "113101" in [code.CodeValue for code in clean.DeidentificationMethodCodeSequence]


def test_black_is_the_largest_number_where_that_is_black() -> None:
    clean = blackened(image(**US, PhotometricInterpretation="MONOCHROME1"), BANNER)

    assert (clean.pixel_array[:2] == 4095).all()


def region(left: int, top: int, right: int, bottom: int) -> Dataset:
    """Corners, both in the region."""
    each = Dataset()
    each.RegionLocationMinX0, each.RegionLocationMinY0 = left, top
    each.RegionLocationMaxX1, each.RegionLocationMaxY1 = right, bottom
    return each


def regions_alone_are_left() -> bool:
    dataset = image(**US, SequenceOfUltrasoundRegions=[region(1, 1, 2, 2), region(4, 3, 5, 3)])
    clean = blackened(dataset, Blackening({"Modality": "US"}, outside_regions=True))

    seen = np.zeros((4, 6), bool)
    seen[1:3, 1:3], seen[3, 4:6] = True, True
    return np.array_equal(clean.pixel_array, np.where(seen, np.arange(24).reshape(4, 6), 0))


def test_all_outside_the_ultrasound_regions_is_blackened() -> None:
    assert regions_alone_are_left()


@pytest.mark.parametrize(
    ("part", "mutant"),
    [
        ("_regions", lambda clean: [(0, 0, clean.Columns, clean.Rows)]),
        ("_regions", lambda clean: [(left, top, left + 1, top + 1) for left, top in ((1, 1), (4, 3))]),
        ("_black", lambda _: 1),
    ],
)
def test_a_mutant_that_blackens_otherwise_is_caught(
    part: str, mutant: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burned_in, part, mutant)

    assert not regions_alone_are_left()


@pytest.mark.parametrize(
    ("name", "colour"), [("examples_palette.dcm", "PALETTE COLOR"), ("examples_ybr_color.dcm", "RGB")]
)
def test_real_ultrasound_is_blackened_outside_its_regions(name: str, colour: str) -> None:
    """In colour, of many frames, compressed."""
    original = shipped(name)
    clean = blackened(original, Blackening({"Modality": "US"}, outside_regions=True))

    inside = np.zeros((original.Rows, original.Columns), bool)
    for each in original.SequenceOfUltrasoundRegions:
        inside[
            each.RegionLocationMinY0 : each.RegionLocationMaxY1 + 1,
            each.RegionLocationMinX0 : each.RegionLocationMaxX1 + 1,
        ] = True
    before = original.pixel_array.reshape(-1, *inside.shape, original.SamplesPerPixel)
    after = clean.pixel_array.reshape(before.shape)
    assert not inside.all()
    np.testing.assert_array_equal(after[:, inside], before[:, inside])
    assert not after[:, ~inside].any()
    assert clean.PhotometricInterpretation == colour
    assert clean.get("NumberOfFrames") == original.get("NumberOfFrames")


@pytest.mark.parametrize(
    ("changes", "rule", "reason"),
    [
        ({}, Blackening({"Modality": "US", "Rows": 5, "Columns": 6}, boxes=((0, 0, 6, 2),)), KIND),
        (
            {},
            Blackening({"Modality": "US"}, outside_regions=True),
            "the site's rule wants all outside its regions",
        ),
        (
            {"SequenceOfUltrasoundRegions": [Dataset()]},
            Blackening({"Modality": "US"}, outside_regions=True),
            "its pixels cannot be decoded to blacken them (AttributeError)",
        ),
        ({"PixelData": b"\0\0"}, BANNER, "its pixels cannot be decoded to blacken them (ValueError)"),
    ],
)
def test_what_cannot_be_blackened_is_quarantined(
    changes: dict[str, Any], rule: Blackening, reason: str
) -> None:
    (told,) = verdict(image(**US, **changes), rule).quarantine

    assert told.startswith(reason)


def test_a_rule_does_not_make_an_image_of_what_is_none() -> None:
    dataset = image(**US | {"SOPClassUID": EncapsulatedPDFStorage})

    assert verdict(dataset, BANNER).quarantine == ("it is not an image", KIND)


# -- A site's file of rules -------------------------------------------------------------------

RULES = """
- where: {Modality: US, ManufacturerModelName: CX50, Rows: 600, Columns: 800}
  boxes: [[0, 0, 800, 60], [700, 60, 800, 600]]
- where: {Modality: US}
  outside_regions: true
"""


def test_rules_are_read(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)

    where = {"Modality": "US", "ManufacturerModelName": "CX50", "Rows": 600, "Columns": 800}
    assert read_blackenings(tmp_path / "rules.yaml") == (
        Blackening(where, boxes=((0, 0, 800, 60), (700, 60, 800, 600))),
        Blackening({"Modality": "US"}, outside_regions=True),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("where: 1", "expected a list of rules"),
        ("- {", "cannot be read"),
        (
            "- where: {Modality: US}\n  boxes: [[0, 0, 1, 1]]",
            "rule 1: .*boxes need Rows and Columns",
        ),
        ("- where: {Rows: 4, Columns: 4}\n  boxes: [[0, 0, 0, 1]]", r"rule 1: \[0, 0, 0, 1\] is no box"),
        ("- where: {Rows: 4, Columns: 4}\n  boxes: []", "rule 1: expected"),
        ("- where: {}\n  outside_regions: true", "rule 1: expected"),
        ("- where: {Modality: US}\n  outside_regions: true\n  boxs: []", "rule 1: expected"),
    ],
)
def test_rules_that_are_none_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "rules.yaml").write_text(text)

    with pytest.raises(SettingsError, match=complaint):
        read_blackenings(tmp_path / "rules.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"rules\.yaml: cannot be read"):
        read_blackenings(tmp_path / "rules.yaml")


# -- Faces ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "flagged"),
    [
        ({"BodyPartExamined": "HEAD"}, True),
        ({"SeriesDescription": "t1 brain"}, True),
        ({"BodyPartExamined": "KNEE"}, False),
        ({"BodyPartExamined": "HEAD", "RecognizableVisualFeatures": "NO"}, False),
        ({"BodyPartExamined": "HEAD", "Modality": "DX"}, False),
    ],
)
def test_a_head_has_a_face(attributes: dict[str, str], flagged: bool) -> None:  # noqa: FBT001
    clean, told = deidentify(image(**attributes), KEY)

    assert bool(told.flags) is flagged
    assert (clean.get("RecognizableVisualFeatures") == "YES") is flagged
    assert told.quarantine == ()

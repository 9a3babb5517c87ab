"""Which modality a series is: from what scanners write, with people's words as weaker evidence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from imaging import modality
from imaging.dicom import quiet, read_header, text
from imaging.modality import CERTAIN, UNKNOWN, Rules, classify, facts, shipped_rules, site_rules
from protocol.errors import DicomError, SettingsError
from tests.imaging.files import real


def header(dicom_modality: str = "MR", **attributes: Any) -> Dataset:
    """A header with a few attributes."""
    dataset = Dataset()
    dataset.Modality = dicom_modality
    with quiet():
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    return dataset


def se(tr: float, te: float, ti: float | None = None, **more: Any) -> Dataset:
    """A spin echo."""
    scanning = ["SE", "IR"] if ti else ["SE"]
    times = {"RepetitionTime": tr, "EchoTime": te} | ({"InversionTime": ti} if ti else {})
    return header(ScanningSequence=scanning, SequenceVariant="SK", MRAcquisitionType="2D", **times, **more)


def gre(tr: float, te: float, flip: float, ti: float | None = None, **more: Any) -> Dataset:
    """A spoiled gradient echo in 3D."""
    times = {"RepetitionTime": tr, "EchoTime": te, "FlipAngle": flip} | ({"InversionTime": ti} if ti else {})
    return header(ScanningSequence="GR", SequenceVariant="SP", MRAcquisitionType="3D", **times, **more)


def epi(te: float, *, spin: bool, **more: Any) -> Dataset:
    """An echo-planar image."""
    return header(ScanningSequence=["EP", "SE" if spin else "GR"], RepetitionTime=5000, EchoTime=te, **more)


def ct(**more: Any) -> Dataset:
    return header("CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], **more)


def view(meaning: str) -> Dataset:
    """A coded view (PS3.16 CID 4010)."""
    code = Dataset()
    code.CodeMeaning = meaning
    return code


GIVEN = {"ContrastBolusAgent": "Gadovist"}
WRITTEN: dict[str, tuple[Callable[[], Dataset], str]] = {
    # Times of usual protocols at 1.5 and 3 T, without a word of description.
    "t1 spin echo": (lambda: se(550, 9), "t1"),
    "t1 turbo spin echo at 3 T": (lambda: se(800, 13), "t1"),
    "t1 FLAIR": (lambda: se(2000, 24, 860), "t1"),
    "MPRAGE": (lambda: gre(1900, 2.5, 9, 900), "t1"),
    "BRAVO": (lambda: gre(8.2, 3.2, 12, 450), "t1"),
    "VIBE": (lambda: gre(6, 2.4, 12), "t1"),
    "t1 spin echo with contrast medium": (lambda: se(550, 9, **GIVEN), "t1c"),
    "MPRAGE with contrast medium": (lambda: gre(1900, 2.5, 9, 900, **GIVEN), "t1c"),
    "t1, which says no agent": (lambda: se(550, 9, ContrastBolusAgent="NONE"), "t1"),
    "t2": (lambda: se(4500, 98), "t2"),
    "t2 SPACE": (lambda: se(3200, 410), "t2"),
    "t2 with contrast medium": (lambda: se(4500, 98, **GIVEN), "t2"),
    "FLAIR": (lambda: se(9000, 120, 2500), "flair"),
    "3D FLAIR": (lambda: se(5000, 390, 1800), "flair"),
    "FLAIR at 64 mT": (lambda: se(4000, 194, 1400), "flair"),
    "FLAIR with contrast medium": (lambda: se(9000, 120, 2500, **GIVEN), "flair"),
    "STIR": (lambda: se(4400, 64, 140), "stir"),
    "proton density": (lambda: se(2500, 20), "pd"),
    "diffusion by b-value": (lambda: epi(90, spin=True, DiffusionBValue=1000.0), "dwi"),
    "diffusion by image type": (
        lambda: epi(90, spin=True, ImageType=["ORIGINAL", "PRIMARY", "DIFFUSION"]),
        "dwi",
    ),
    "trace": (lambda: epi(90, spin=True, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]), "dwi"),
    "ADC": (lambda: epi(90, spin=True, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]), "adc"),
    "fractional anisotropy": (
        lambda: epi(90, spin=True, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "FA"]),
        "derived",
    ),
    "functional": (lambda: epi(30, spin=False), "bold"),
    "SWI": (lambda: gre(28, 20, 15, ImageType=["ORIGINAL", "PRIMARY", "M", "SWI"]), "swi"),
    "SWI of Philips": (lambda: gre(31, 0, 15, ImageType=["ORIGINAL", "PRIMARY", "SW_M_FFE"]), "swi"),
    "phase": (lambda: gre(28, 20, 15, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]), "phase"),
    "field map": (lambda: gre(400, 5, 60, SequenceName="*fm2d2r"), "fieldmap"),
    "a gradient echo of neither": (lambda: gre(500, 18, 20), UNKNOWN),
    "times that no scanner keeps": (lambda: se(10, 100), UNKNOWN),
    "MR that says nothing": (header, UNKNOWN),
    # Not a scan, or not of this patient's anatomy.
    "localiser": (lambda: gre(8, 4, 20, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localiser"),
    "scout": (lambda: header("CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localiser"),
    "MPR": (lambda: gre(1900, 2.5, 9, 900, ImageType=["DERIVED", "SECONDARY", "MPR"]), "derived"),
    "projection": (lambda: header("CT", ImageType=["DERIVED", "SECONDARY", "MIP"]), "derived"),
    "secondary capture": (
        lambda: header("CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.7.4"),
        "screenshot",
    ),
    "a colour image that says MR": (lambda: header(SamplesPerPixel=3), "screenshot"),
    "segmentation": (lambda: header("SEG"), "derived"),
    # CT, and its phases.
    "CT": (ct, "ct"),
    "CT with contrast medium": (lambda: ct(ContrastBolusAgent="Ultravist 370"), "ct_contrast"),
    "arterial": (
        lambda: ct(ContrastBolusAgent="Iohexol", SeriesDescription="Abdomen arterial"),
        "ct_arterial",
    ),
    "venous": (lambda: ct(ContrastBolusAgent="Iohexol", SeriesDescription="portal venous 5.0"), "ct_venous"),
    "delayed": (lambda: ct(ContrastBolusAgent="Iohexol", SeriesDescription="delayed 5min"), "ct_delayed"),
    "venous by the clock": (
        lambda: ct(ContrastBolusAgent="Iohexol", ContrastBolusStartTime="120000", AcquisitionTime="120110"),
        "ct_venous",
    ),
    "native, says its name": (lambda: ct(SeriesDescription="Thorax nativ"), "ct"),
    # Others.
    "PET": (lambda: header("PT", CorrectedImage=["DECY", "ATTN", "SCAT"]), "pet"),
    "PET without attenuation correction": (lambda: header("PT", CorrectedImage=["DECY"]), "pet_nac"),
    "chest from behind": (lambda: header("DX", ViewPosition="PA"), "xr_pa"),
    "chest from the front": (lambda: header("CR", ViewPosition="AP"), "xr_ap"),
    "lateral": (lambda: header("CR", ViewPosition="LL"), "xr_lateral"),
    "lateral by its code": (lambda: header("DX", ViewCodeSequence=[view("left lateral")]), "xr_lateral"),
    "chest from behind by its code": (
        lambda: header("DX", ViewCodeSequence=[view("postero-anterior")]),
        "xr_pa",
    ),
    "a detector's raw image": (
        lambda: header("DX", ViewPosition="PA", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"),
        "unprocessed",
    ),
    "a radiograph": (lambda: header("CR"), "xr"),
    "mammogram": (lambda: header("MG", ViewPosition="MLO"), "mg_mlo"),
    "ultrasound": (lambda: header("US", SamplesPerPixel=3), "us"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_series_is_what_its_tags_say(name: str) -> None:
    make, expected = WRITTEN[name]

    found = classify(make())

    assert found.name == expected
    assert found.because
    assert found.confidence >= modality.LEAST or expected == UNKNOWN


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("AX T1 POST", "t1c"),
        ("t1_mprage_sag_p2_iso", "t1"),
        ("AX T1 SE PRE GD", "t1"),
        ("T1W_3D_TFE +C", "t1c"),
        ("Ax T2 FLAIR", "flair"),
        ("t2_tirm_tra_dark-fluid", "flair"),
        ("T2W_TSE", "t2"),
        ("ep2d_diff_3scan_trace", "dwi"),
        ("ADC (10^-6 mm2/s)", "adc"),
        ("SWI_Images", "swi"),
        ("3-plane loc", "localiser"),
        ("Gamma Knife", UNKNOWN),
    ],
)
def test_words_alone_are_believed_a_little(description: str, expected: str) -> None:
    """Where no tag speaks, a name with a confidence below 0.6."""
    found = classify(header(SeriesDescription=description))

    assert found.name == expected
    assert found.confidence < 0.6


def test_tags_outweigh_words() -> None:
    """Somebody copied the last protocol and left its name."""
    found = classify(se(9000, 120, 2500, SeriesDescription="AX T1 SE"))

    assert found.name in {"flair", UNKNOWN}
    assert classify(se(9000, 120, 2500)).confidence > found.confidence


def test_tags_and_words_that_agree_are_believed_more() -> None:
    assert classify(se(4500, 98, SeriesDescription="T2 TSE")).confidence > classify(se(4500, 98)).confidence


def test_a_few_slices_of_several_orientations_are_a_localiser() -> None:
    assert classify(gre(8, 4, 20), slices=9, orientations=3).name == "localiser"
    assert classify(gre(1900, 2.5, 9, 900), slices=176, orientations=1).name == "t1"


def test_what_is_only_stored_anew_is_still_what_it_was() -> None:
    """Archives call a compressed image derived; a computed one does not say that it was compressed."""
    kind = {"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}

    assert classify(se(4000, 100, **kind, DerivationDescription="Lossless RLE compression")).name == "t2"
    assert classify(se(4000, 100, **kind)).name == UNKNOWN


def test_enhanced_headers_are_read_in_their_functional_groups() -> None:
    """Echo time, inversion and contrast stand there, and nowhere else."""
    echo, kind, timing, inversion = Dataset(), Dataset(), Dataset(), Dataset()
    echo.EffectiveEchoTime, timing.RepetitionTime = 120.0, 9000.0
    kind.FrameType, kind.AcquisitionContrast = ["ORIGINAL", "PRIMARY", "M", "NONE"], "FLUID_ATTENUATED"
    inversion.InversionTimes = 2500.0
    shared = Dataset()
    shared.MREchoSequence, shared.MRImageFrameTypeSequence = Sequence([echo]), Sequence([kind])
    shared.MRTimingAndRelatedParametersSequence = Sequence([timing])
    shared.MRModifierSequence = Sequence([inversion])

    found = classify(header(SharedFunctionalGroupsSequence=Sequence([shared]), EchoPulseSequence="SPIN"))

    assert found.name == "flair"
    assert found.confidence > 0.9


# -- Garbage ---------------------------------------------------------------------------------

KEYWORDS = [
    "Modality",
    "ImageType",
    "ScanningSequence",
    "SequenceVariant",
    "SequenceName",
    "SeriesDescription",
    "ProtocolName",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "ContrastBolusAgent",
    "ViewPosition",
    "MRAcquisitionType",
    "AcquisitionContrast",
    "SOPClassUID",
    "SamplesPerPixel",
    "BodyPartExamined",
    "CorrectedImage",
    "DerivationDescription",
    "ContrastBolusStartTime",
    "AcquisitionTime",
    "PerFrameFunctionalGroupsSequence",
]
GARBAGE = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(-(10**9), 10**9),
    st.floats(),
    st.none(),
    st.lists(st.text(max_size=5), max_size=4),
)


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(KEYWORDS), GARBAGE, max_size=12))
def test_garbage_is_never_believed(attributes: dict[str, Any]) -> None:
    """Whatever stands in a header: no crash, and no name with confidence."""
    dataset = Dataset()
    with quiet():
        for keyword, value in attributes.items():
            try:
                setattr(dataset, keyword, value)
            except (TypeError, ValueError, OverflowError):
                continue
        found = classify(dataset)

    assert found.confidence < 0.6 or found.name == "screenshot"


@pytest.mark.parametrize("keyword", ["SeriesDescription", "ImageType", "SequenceName"])
@pytest.mark.parametrize("long", ["t1" * 500_000, "T1\\" * 10_000, "t1 " * 500_000])
def test_a_long_value_costs_no_more_than_its_beginning(keyword: str, long: str) -> None:
    assert len(str(facts(header(**{keyword: long})))) < 20_000


@given(st.text(max_size=300))
def test_no_description_is_believed_alone(description: str) -> None:
    assert classify(header(SeriesDescription=description.replace("\\", " "))).confidence < 0.6


# -- Rules -----------------------------------------------------------------------------------


def test_a_site_s_rules_come_first(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(
        "first:\n"
        "  - modality: t1c\n"
        "    when: {dicom_modality: [MR], words: ['protocol 7']}\n"
        "    because: protocol 7 is always given with contrast medium here\n",
        encoding="utf-8",
    )
    seven = se(550, 9, ProtocolName="Protocol 7")

    found = classify(seven, rules=site_rules(path))

    assert (found.name, found.confidence) == ("t1c", CERTAIN)
    assert "here" in found.because[0]
    assert classify(seven).name == "t1"
    assert classify(se(550, 9), rules=site_rules(path)).name == "t1"


@pytest.mark.parametrize(
    "wrong",
    [
        "frist: []",
        "first: [{modality: t1, because: so, when: {wrods: [a]}}]",
        "evidence: [{share: 2, because: so, when: {}}]",
        "first: [{modality: t1}]",
        "{{",
    ],
)
def test_a_slip_in_a_site_s_rules_is_named(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(wrong, encoding="utf-8")

    with pytest.raises(SettingsError, match="rules for modalities"):
        site_rules(path)


def test_every_fact_that_a_rule_asks_for_is_one_that_headers_give() -> None:
    """A rule whose fact nobody finds would never hold."""
    asked = {
        name
        for rule in (*shipped_rules().first, *shipped_rules().evidence)
        for when in (rule.when, rule.unless)
        for name, _ in modality._asked(when)
    }
    texts = "SOPClassUID AcquisitionContrast SequenceName CorrectedImage DerivationDescription ViewPosition"
    numbers = {"FlipAngle": 1, "DiffusionBValue": 1.0, "SeriesDescription": "a"}
    times = {"ContrastBolusStartTime": "120000", "AcquisitionTime": "120001"}
    full = se(1, 1, 1, ImageType=["A", "B", "C"], **dict.fromkeys(texts.split(), "1"), **numbers, **times)

    assert asked <= facts(full).keys() | {"slices", "orientations"}


def test_a_rule_that_asks_nothing_never_holds() -> None:
    """An empty `when` would make everything what it says."""
    rules = Rules((modality.Decision("t1", "because", modality.When()),))

    assert classify(header(), rules=rules).name == UNKNOWN


def test_without_the_runner_up_a_tie_would_be_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Post-contrast or not, by words that say both: unknown; the mutant that takes the best says one."""
    both = se(550, 9, SeriesDescription="T1 pre and post")
    tie = [
        rule
        for rule in shipped_rules().evidence
        if "t1c" in rule.speaks_for and modality._holds(rule, facts(both))
    ]

    assert modality._weighed(tie).name == UNKNOWN
    monkeypatch.setattr(modality, "LEAST", 0.0)
    assert modality._weighed(tie).name in {"t1", "t1c"}


# -- Real files ------------------------------------------------------------------------------

ZOO = {
    "axasc35/": {"bold"},
    "dcm_qa_canon/": {"dwi"},
    "dcm_qa_toshiba/": {"dwi"},
    "dcm_qa_ct/In/GE": {"ct"},
    "S21570/S1000": {"localiser"},
    "2_t1_fl2d_sag": {"t1"},
    "dcm_qa_deident/": {"t1"},
    "gre_field_mag/": {"fieldmap"},
    "gre_field_ph/": {"phase"},
    "3db0map": {"fieldmap"},
    "anat-T1w": {"t1"},
    "Ax_DWI": {"dwi"},
    "20180918GE": {"bold"},
    "dwi_no-phi": {"dwi"},
    "2_fmri_SagAP": {"bold"},
    "6_DWI_SagAP": {"dwi"},
    "dti_tra_dir16": {"dwi"},
    "t1_gre_fsp_3d_sag": {"t1"},
    "25_asl": {"perfusion"},
    "27_asl": {"derived"},
    "28_asl": {"derived"},
    "generic/compressed": {"flair"},
    "hyperfine/": {"flair"},
    "generic/rgb": {"screenshot"},
    "philips_enhanced/anatomical": {"t1"},
    "philips_enhanced/dti": {"dwi"},
    "philips_enhanced/fmri": {UNKNOWN, "bold"},
    "siemens/dti_classic": {"dwi"},
    "ge/anatomical": {"t1"},
    # Anonymised beyond what could be told: not wrong is good enough.
    "ge/dti": {UNKNOWN, "dwi"},
    "philips/fmri": {UNKNOWN, "bold"},
}
"""Part of a path -> what it may be, by what the sets' own documentation says of it."""


@pytest.mark.slow
@pytest.mark.parametrize("part", ZOO)
def test_real_series_are_what_their_makers_say(part: str) -> None:
    folder = real("dicom_vendor_zoo")
    names = set()
    for path in folder.rglob("*"):
        if path.is_file() and part in str(path.relative_to(folder)):
            try:
                read = read_header(path)
            except DicomError:
                continue
            names |= {classify(read).name} if text(read, "Rows") else set()

    assert names
    assert names <= ZOO[part]

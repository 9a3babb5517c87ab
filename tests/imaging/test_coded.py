"""Codes keep their official meaning, and no other."""

import pytest
from pydicom.dataset import Dataset

from imaging.coded import is_coded, official
from imaging.deidentify import deidentify
from tests.imaging.identified import KEY, image


def coded_entry(value: str, scheme: str, meaning: str) -> Dataset:
    entry = Dataset()
    entry.CodeValue, entry.CodingSchemeDesignator, entry.CodeMeaning = value, scheme, meaning
    return entry


@pytest.mark.parametrize(
    ("told", "known"),
    [
        (("12738006", "SCT", "Brain of Alonso"), ("12738006", "SCT", "Brain")),
        (("T-A0100", "SRT", "Brain"), ("12738006", "SCT", "Brain")),
        (("T-A0100", "SNM3", "Brain"), ("12738006", "SCT", "Brain")),
        (("1605", "99LOCAL", "Quixote"), ("261665006", "SCT", "Unknown")),
        (("1605", "SCT", "Quixote"), ("261665006", "SCT", "Unknown")),
    ],
)
def test_of_a_code_the_official_meaning_stays(told: tuple[str, ...], known: tuple[str, ...]) -> None:
    clean = official(coded_entry(*told))

    assert is_coded(clean)
    assert (clean.CodeValue, clean.CodingSchemeDesignator, clean.CodeMeaning) == known
    assert len(clean) == 3


def test_a_long_meaning_is_cut_to_what_its_representation_holds() -> None:
    assert len(official(coded_entry("113107", "DCM", "")).CodeMeaning) <= 64


def test_an_image_has_official_codes_at_all_depths() -> None:
    """A code's own modifiers are codes."""
    region = coded_entry("T-A0100", "SRT", "Brain of Alonso")
    region.AnatomicRegionModifierSequence = [coded_entry("1605", "99LOCAL", "Quixote")]
    clean, _ = deidentify(image(AnatomicRegionSequence=[region]), KEY)

    assert clean.AnatomicRegionSequence[0].CodeMeaning == "Brain"
    assert clean.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeMeaning == "Unknown"


def test_what_has_no_code_is_not_coded() -> None:
    assert not is_coded(image())

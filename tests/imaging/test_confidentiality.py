"""The table is the standard's, and the lists beside it promise no more than they may."""

import pytest
from pydicom.datadict import dictionary_VR, keyword_dict, private_dictionary_VR, tag_for_keyword
from pydicom.tag import Tag

from imaging.confidentiality import rules, safe_private, table, words
from imaging.values import NUMBERS

FROM_ANOTHER_COPY = {
    # By hand, from a rendering of table E.1-1 of about 2020, rows that later editions left alone.
    "00080050": "Z", "00184000": "X", "00400555": "X/Z", "00080022": "X/Z", "0008002A": "X/Z/D",
    "00181400": "X/D", "001811BB": "D", "00189424": "X", "00080032": "X/Z", "00404035": "X",
    "001021B0": "X", "0040A353": "X", "00380010": "X", "00380020": "X", "00081084": "X",
    "00081080": "X", "00001000": "X", "00102110": "X", "22000005": "X/Z", "300A00C3": "X",
    "00181007": "X", "00120060": "Z", "00120081": "D", "00120020": "D", "00120040": "D",
    "00209161": "U", "3010000F": "Z", "00400512": "D", "00700084": "Z/D", "00080023": "Z/D",
    "0040A730": "D", "00080033": "Z/D", "00180010": "Z/D", "50xxxxxx": "X", "FFFCFFFC": "X",
    "0018700A": "X/D", "00181000": "X/Z/D", "00181002": "U", "FFFAFFFA": "X", "04000100": "U",
}  # fmt: skip


def test_the_table_is_the_standards() -> None:
    """657 rows in 2026d, one for each attribute; each action is one of PS3.15's."""
    rows = {row["tag"]: row["basic"] for row in table()}

    assert len(rows) == len(table()) == 657
    assert {tag: rows[tag] for tag in FROM_ANOTHER_COPY} == FROM_ANOTHER_COPY
    assert set(rows.values()) == {"D", "Z", "X", "U", "X/D", "X/Z", "Z/D", "X/Z/D", "X/Z/U*"}


def test_names_are_those_of_the_dictionary() -> None:
    """A tag that slipped by a line would carry another attribute's name."""
    plain = {"".join(filter(str.isalnum, keyword)).lower(): tag for keyword, tag in keyword_dict.items()}
    named = {row["tag"]: plain.get("".join(filter(str.isalnum, row["name"])).lower()) for row in table()}
    agreed = [tag for tag, found in named.items() if found is not None and f"{found:08X}" == tag]
    others = [tag for tag, found in named.items() if found is not None and f"{found:08X}" != tag]

    assert others == []
    assert len(agreed) > 450  # the rest has an apostrophe's s, a (Trial), or is newer than pydicom


@pytest.mark.parametrize(
    ("keyword", "action", "otherwise"),
    [
        ("PatientName", "patient", "empty"),
        ("PatientID", "patient", "dummy"),
        ("AccessionNumber", "identifier", "empty"),
        ("StudyInstanceUID", "uid", "uid"),
        ("StudyDate", "shift", "empty"),
        ("AcquisitionDateTime", "shift", "dummy"),
        ("PatientBirthDate", "empty", "empty"),
        ("PatientWeight", "remove", "remove"),
        ("SeriesDescription", "words", "remove"),
        ("ProtocolName", "words", "dummy"),
        ("Manufacturer", "words", "dummy"),
        ("ReferencedImageSequence", "items", "items"),
        ("AcquisitionContextSequence", "empty", "empty"),
        ("RequestAttributesSequence", "remove", "remove"),
        ("Rows", "keep", "remove"),
    ],
)
def test_what_becomes_of(keyword: str, action: str, otherwise: str) -> None:
    tag = tag_for_keyword(keyword)
    assert tag is not None

    assert rules()[tag] == (action, otherwise)


def test_nothing_of_the_table_is_kept_as_it_is() -> None:
    listed = {row["tag"] for row in table()}
    kept = [f"{tag:08X}" for tag, rule in rules().items() if rule.action == "keep"]

    assert [tag for tag in kept if tag in listed] == []


def test_only_descriptions_that_the_table_lets_clean_keep_words() -> None:
    """PS3.15 E.3.5: where it does not say C, cleaning is not enough."""
    cleanable = {row["tag"]: row["descriptors"] for row in table()}
    kept = [f"{tag:08X}" for tag, rule in rules().items() if rule.action == "words"]

    assert {cleanable[tag] for tag in kept if tag in cleanable} == {"C"}


def test_no_free_text_is_kept_as_it_is() -> None:
    free = {"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT", "DA", "DT", "TM"}

    assert [
        Tag(tag) for tag, rule in rules().items() if rule.action == "keep" and dictionary_VR(tag) in free
    ] == []


def test_safe_private_attributes_are_numbers_that_pydicom_knows() -> None:
    """Its private dictionary is from the vendors' own conformance statements; one vendor it lacks."""
    listed = [(group, 0x1000 | slot, creator) for group, creator, slot in safe_private()]
    known = [each for each in listed if each[2] != "Image Private Header"]

    assert len(listed) - len(known) == 2
    assert {private_dictionary_VR(each[:2], each[2]) for each in known} <= NUMBERS


def test_words_are_words() -> None:
    """Lower case, and no number that could be somebody's."""
    assert [word for word in words() if word != word.lower() or not word.isalnum() or word.isdigit()] == []

"""Coded entries (PS3.3 section 8) that may stay: those that the standard's own dictionaries know.

A code is a value, the scheme it is from, and a meaning in words. The meaning is free text and the value is
whatever a local list says, so both can say anything about anybody. A code that is known is written anew with
its official meaning; any other becomes "unknown". Codes of SNOMED's older numbering (SRT, SNM3) turn into the
present one.
"""

from functools import cache

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from imaging.values import told

_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
_LONGEST_MEANING = 64  # of the representation LO, PS3.5 6.2
_FORMER = {"SNM3": "SRT", "99SDM": "SRT"}
SCHEMES = {"DCM": codes.DCM, "SCT": codes.SCT, "SRT": codes.SCT, "UCUM": codes.UCUM}


def is_coded(item: Dataset) -> bool:
    """Say whether an item of a sequence is a coded entry."""
    return any(keyword in item for keyword in _VALUES)


def official(item: Dataset) -> Dataset:
    """Return a coded entry's value, scheme and meaning as the dictionaries have them."""
    scheme = told(item, "CodingSchemeDesignator")
    return entry(told(item, "CodeValue"), _FORMER.get(scheme, scheme))


def entry(value: str, scheme: str) -> Dataset:
    """Return the coded entry for a value of a scheme; "unknown" where the dictionaries lack it."""
    code, coded = _known(value, scheme), Dataset()
    coded.CodeValue, coded.CodingSchemeDesignator = code.value, code.scheme_designator
    coded.CodeMeaning = code.meaning[:_LONGEST_MEANING]
    return coded


@cache
def _known(value: str, scheme: str) -> Code:
    wanted = Code(value, scheme, "")
    names = SCHEMES.get(scheme)
    found = (getattr(names, name) for name in names.dir()) if names else ()
    return next((code for code in found if code == wanted), codes.SCT.Unknown)

"""Why a DICOM file, or a series of them, was not read: one word each, for counting."""

from enum import StrEnum


class Reason(StrEnum):
    """The reason of a `DicomError`."""

    NOT_DICOM = "not_dicom"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    UNKNOWN_SYNTAX = "unknown_syntax"
    NO_PIXELS = "no_pixels"
    BAD_PIXELS = "bad_pixels"

    NO_SERIES = "no_series"
    NO_GEOMETRY = "no_geometry"
    COLOUR = "colour"
    MISSING_SLICES = "missing_slices"
    UNEVEN_SLICES = "uneven_slices"
    REPEATED_SLICES = "repeated_slices"

    NOT_DERIVED = "not_derived"
    PLUG_IN = "plug_in"

"""How strongly, and along which direction, an image is weighted for diffusion.

The standard has attributes for both since enhanced MR (0018,9087 and 0018,9089); before, and still in
classic images, each vendor has its own. The private ones below are those that the vendors'
conformance statements name.
"""

from pydicom.dataset import Dataset

from imaging.dicom import items, numbers, private_numbers

_B_VALUES = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
    (0x0065, "Image Private Header", 0x09),  # United Imaging
)
_DIRECTIONS = ((0x0019, "SIEMENS MR HEADER", 0x0E), (0x0065, "Image Private Header", 0x37))
_THREE = (
    (0x0019, "GEMS_ACQU_01", (0xBB, 0xBC, 0xBD)),
    (0x2005, "Philips MR Imaging DD 001", (0xB0, 0xB1, 0xB2)),
)
GE_OFFSET = 10**9
"""GE adds it, and in some versions multiples of 100,000, to b-values that are not the nominal ones."""


def b_value(header: Dataset) -> float | None:
    """Return the b-value in s/mm2: 0 without weighting, None where the header does not speak of it."""
    found = numbers(header, "DiffusionBValue")
    for group, creator, element in _B_VALUES:
        found = found or private_numbers(header, group, creator, element)
    if not found or found[0] < 0:
        return None
    b = found[0] % GE_OFFSET
    return b % 100_000 if b >= 100_000 else b  # noqa: PLR2004


def direction(header: Dataset) -> tuple[float, ...] | None:
    """Return the gradient's direction, `(3,)`, in whichever system the vendor has it; None without one."""
    standard = [header, *items(header, "DiffusionGradientDirectionSequence")]
    found = next((f for each in standard if (f := numbers(each, "DiffusionGradientOrientation", 3))), None)
    for group, creator, element in _DIRECTIONS:
        found = found or private_numbers(header, group, creator, element)
    for group, creator, elements in _THREE:
        three = [private_numbers(header, group, creator, element) for element in elements]
        found = found or (tuple(each[0] for each in three if each) if all(three) else None)
    return tuple(round(each, 4) for each in found) if found else None

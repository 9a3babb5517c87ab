"""Text that is part of the picture, and faces that are.

Ultrasound machines, screenshots and scanned films draw the patient's name into the pixels, where no rule
about attributes reaches it. Whether an image may have such text is judged by what it is:

    said so        BurnedInAnnotation is YES
    likely         ultrasound, secondary capture, scanned film, and all kinds of image not known to be free of
                   text, whatever they say of themselves
    a screenshot   a CT, MR or PET image without a place in space is a report sheet or a saved screen

Such images are quarantined, unless the site has said how to blacken those of just this device
(`read_blackenings`). A site finds out by looking at its own images; a rule for machines of one model and one
image size then holds for all of them:

    - where: {Modality: US, ManufacturerModelName: CX50, Rows: 600, Columns: 800}
      boxes: [[0, 0, 800, 60]]           # left, top, right, bottom: pixels, the last two not included
    - where: {Modality: US, ManufacturerModelName: LOGIQ 700}
      outside_regions: true              # all but where SequenceOfUltrasoundRegions says there is an image

A head's surface in a volume is a face. It is not a reason for quarantine, but it is said: whoever passes
volumes on must remove it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, RTStructureSetStorage

from imaging.pixel_bytes import PIXELS
from imaging.values import told
from protocol.errors import SettingsError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are not included."""

FREE_OF_TEXT = {"CR", "CT", "DX", "MG", "MR", "NM", "PT", "SEG"}
"""(0008,0060) of images that machines do not write text into."""

VOLUMES = {"CT", "MR", "PT"}
_SCANNED = ("ConversionType", "NominalScannedPixelSpacing")
"""What only captures and scanned films have."""
_PLACES = {"ImageOrientationPatient", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"}
_HEADS = {"BRAIN", "FACE", "HEAD", "HEADNECK", "NEURO", "ORBIT", "SINUS", "SKULL"}


@dataclass(frozen=True)
class Verdict:
    """What is to become of a de-identified image.

    `quarantine`  reasons not to use it; none: it may be used
    `flags`       what else somebody should know
    `blackened`   text was, or may have been, in its pixels, and the site's rule has blackened it
    """

    quarantine: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    blackened: bool = False


@dataclass(frozen=True)
class Blackening:
    """What to blacken in images of one device: `boxes`, or all that is outside the ultrasound regions."""

    where: Mapping[str, str | int]
    boxes: tuple[Box, ...] = ()
    outside_regions: bool = False


def review(original: Dataset, clean: Dataset, blackenings: Sequence[Blackening]) -> Verdict:
    """Judge a de-identified image; where the site has a rule for its device, blacken it.

    Contours without an image are let through: there is nothing to see.
    """
    if clean.get("SOPClassUID") == RTStructureSetStorage and not any(each in clean for each in PIXELS):
        return Verdict()
    flags = (
        ("a face can be seen in a volume of a head: deface it before it is passed on",)
        if _face(clean)
        else ()
    )
    broken = tuple(_no_image(clean))
    rule = next((rule for rule in blackenings if _meant(rule, original)), None)
    if broken or rule is None:
        return Verdict((*broken, *_texts(original)), flags)
    failed = _blackened(clean, rule)
    return Verdict((failed,) if failed else (), flags, blackened=not failed)


def read_blackenings(path: Path) -> tuple[Blackening, ...]:
    """Read a site's rules; the first that fits an image counts.

    Raises:
        SettingsError: the file is not such a list; the message says which entry.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise SettingsError(
            f"{path}: expected a list of rules, each with 'where' and 'boxes' or 'outside_regions'"
        )
    return tuple(_rule(entry, f"{path}, rule {number}") for number, entry in enumerate(entries, 1))


def _rule(entry: Any, place: str) -> Blackening:
    form = (
        "'where' (keyword: value) and either 'boxes' ([left, top, right, bottom]) or 'outside_regions: true'"
    )
    match entry:
        case {"where": {"Rows": int(), "Columns": int()} as where, "boxes": [*boxes], **rest} if (
            boxes and not rest
        ):
            return Blackening(where, tuple(_box(box, place) for box in boxes))
        case {"where": {**where}, "outside_regions": True, **rest} if where and not rest:
            return Blackening(where, outside_regions=True)
        case _:
            raise SettingsError(f"{place}: expected {form}; boxes need Rows and Columns in 'where'")


def _box(box: Any, place: str) -> Box:
    match box:
        case [int(left), int(top), int(right), int(bottom)] if 0 <= left < right and 0 <= top < bottom:
            return left, top, right, bottom
        case _:
            raise SettingsError(f"{place}: {box!r} is no box: write [left, top, right, bottom] in pixels")


# -- What an image is -------------------------------------------------------------------------


def _no_image(clean: Dataset) -> Iterator[str]:
    if not clean.get("SOPClassUID"):
        yield "it does not say which of the standard's kinds of object it is"
    elif (
        "Image Storage" not in UID(clean.SOPClassUID).name
        and "Segmentation" not in UID(clean.SOPClassUID).name
    ):
        yield "it is not an image"
    elif not clean.get("SOPInstanceUID"):
        yield "it has no number of its own, SOPInstanceUID"
    elif not any(keyword in clean for keyword in PIXELS):
        yield "it has no pixels"


def _texts(original: Dataset) -> Iterator[str]:
    modality = told(original, "Modality")
    if told(original, "BurnedInAnnotation") == "YES":
        yield "it says that text is burned into its pixels"
    if modality not in FREE_OF_TEXT or any(keyword in original for keyword in _SCANNED):
        yield "images of its kind may have text burned into their pixels"
    if modality in VOLUMES and not any(place in original for place in _PLACES):
        yield "it has no place in space, as a saved screen: text may be burned into its pixels"


def _face(clean: Dataset) -> bool:
    if clean.get("Modality") not in VOLUMES or clean.get("RecognizableVisualFeatures") == "NO":
        return False
    said = " ".join(
        str(clean.get(k, ""))
        for k in ("BodyPartExamined", "StudyDescription", "SeriesDescription", "ProtocolName")
    )
    return not _HEADS.isdisjoint(said.upper().split())


# -- Blackening -------------------------------------------------------------------------------


def _meant(rule: Blackening, original: Dataset) -> bool:
    return all(told(original, keyword) == str(value) for keyword, value in rule.where.items())


def _blackened(clean: Dataset, rule: Blackening) -> str | None:
    """Blacken in place; say why not, where that is impossible."""
    if rule.outside_regions and "SequenceOfUltrasoundRegions" not in clean:
        return "the site's rule wants all outside its regions blackened, and it has none"
    try:
        boxes = _regions(clean) if rule.outside_regions else rule.boxes
        pixels = _frames(clean)
        inside = np.zeros(pixels.shape[1:3], bool)
        for left, top, right, bottom in boxes:
            inside[top:bottom, left:right] = True
        pixels[:, inside != rule.outside_regions] = _black(clean)
        _write(clean, pixels)
    except Exception as error:  # noqa: BLE001 - decoders fail in many ways
        return f"its pixels cannot be decoded to blacken them ({type(error).__name__})"
    return None


def _regions(clean: Dataset) -> tuple[Box, ...]:
    """PS3.3 C.8.5.5.1.1: a region's corners, both included."""
    return tuple(
        (
            each.RegionLocationMinX0,
            each.RegionLocationMinY0,
            each.RegionLocationMaxX1 + 1,
            each.RegionLocationMaxY1 + 1,
        )
        for each in clean.SequenceOfUltrasoundRegions
    )


def _frames(clean: Dataset) -> NDArray[Any]:
    """Return `(frames, rows, columns, samples)`; colours become RGB."""
    shape = (-1, clean.Rows, clean.Columns, clean.SamplesPerPixel)
    return clean.pixel_array.reshape(shape).copy()


def _black(clean: Dataset) -> int:
    return (1 << clean.BitsStored) - 1 if clean.PhotometricInterpretation == "MONOCHROME1" else 0


def _write(clean: Dataset, pixels: NDArray[Any]) -> None:
    colour = "RGB" if clean.SamplesPerPixel > 1 else clean.PhotometricInterpretation
    frames = clean.get("NumberOfFrames")
    pixels = pixels if clean.SamplesPerPixel > 1 else pixels[..., 0]
    clean.set_pixel_data(
        pixels if frames else pixels[0], colour, clean.BitsStored, generate_instance_uid=False
    )
    clean.BurnedInAnnotation = "NO"

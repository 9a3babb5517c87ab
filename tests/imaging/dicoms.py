"""Small DICOM files: honest slices, raw elements, and twenty-odd files that mean harm."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from imaging.dicom import quiet
from imaging.reasons import Reason

PREAMBLE = bytes(128) + b"DICM"
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)


def element(tag: tuple[int, int], vr: str, value: bytes, length: int | None = None) -> bytes:
    """An element in explicit VR, little-endian; `length` may lie."""
    size = len(value) if length is None else length
    if vr in {"OB", "OW", "SQ", "UN", "UT"}:
        return struct.pack("<HH2sHL", *tag, vr.encode(), 0, size) + value
    return struct.pack("<HH2sH", *tag, vr.encode(), size) + value


def implicit(tag: tuple[int, int], value: bytes, length: int | None = None) -> bytes:
    """An element in implicit VR, or an item."""
    return struct.pack("<HHL", *tag, len(value) if length is None else length) + value


def part10(body: bytes, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """A file: preamble, meta information, data set."""
    padded = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = element((2, 0x10), "UI", padded)
    return PREAMBLE + element((2, 0), "UL", struct.pack("<L", len(meta))) + meta + body


def image(rows: int = 4, columns: int = 6, bits: int = 16, pixels: bytes | None = None) -> bytes:
    """The elements of an image, and its pixels as they are or all zero."""
    numbers = {
        0x02: 1,
        0x10: rows,
        0x11: columns,
        0x100: bits,
        0x101: bits,
        0x102: max(bits, 1) - 1,
        0x103: 0,
    }
    described = {tag: element((0x28, tag), "US", struct.pack("<H", value)) for tag, value in numbers.items()}
    described[0x04] = element((0x28, 0x04), "CS", b"MONOCHROME2 ")
    data = bytes(rows * columns * bits // 8) if pixels is None else pixels
    return b"".join(each for _, each in sorted(described.items())) + element((0x7FE0, 0x10), "OW", data)


def encoded(frame: bytes, syntax: str, rows: int = 8, columns: int = 8, bits: int = 8) -> bytes:
    """A file whose one frame is already encoded."""
    described, _, _ = image(rows, columns, bits, b"").rpartition(struct.pack("<HH", 0x7FE0, 0x10))
    return part10(
        described
        + element((0x7FE0, 0x10), "OB", encapsulate([frame]) + implicit(SEQUENCE_END, b""), UNDEFINED),
        syntax,
    )


def nested(depth: int) -> bytes:
    """Sequences in sequences, of undefined length."""
    start = element((8, 0x1140), "SQ", b"", UNDEFINED) + implicit(ITEM, b"", UNDEFINED)
    return start * depth + (implicit(ITEM_END, b"") + implicit(SEQUENCE_END, b"")) * depth


def nested_defined(depth: int, wrap: Callable[[bytes], bytes]) -> bytes:
    """Sequences in sequences, each as long as it says."""
    body = b""
    for _ in range(depth):
        body = wrap(implicit(ITEM, body))
    return body


def jpeg(side: int = 8) -> bytes:
    """A grey JPEG of noise."""
    noise, buffer = np.random.default_rng(0).integers(0, 255, (side, side), dtype=np.uint8), io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=5, optimize=True)
    return buffer.getvalue()


def fatal_jpeg() -> bytes:
    """A JPEG with one wrong byte, the version of its first segment: gdcm calls `abort` over it."""
    return jpeg()[:11] + b"\x1f" + jpeg()[12:]


def j2k_header(rows: int, columns: int) -> bytes:
    """The beginning of a JPEG 2000 codestream that claims a size."""
    sizes = struct.pack(">HLLLLLLLLH3B", 0, columns, rows, 0, 0, columns, rows, 0, 0, 1, 7, 1, 1)
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(sizes) + 2) + sizes


def run_lengths(decoded: int) -> bytes:
    """An RLE frame of one segment that becomes `decoded` bytes."""
    return struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * (decoded // 128)


def deflated(body: bytes) -> bytes:
    """A data set deflated as a whole."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return part10(squeeze.compress(body) + squeeze.flush(), uid.DeflatedExplicitVRLittleEndian)


def _explicit_sequence(body: bytes) -> bytes:
    return element((8, 0x1140), "SQ", body)


def _implicit_sequence(body: bytes) -> bytes:
    return implicit((8, 0x1140), body)


def _private_sequence(body: bytes) -> bytes:
    return implicit((9, 0x1010), body)


_TRAVERSAL = b"../../../../tmp/consilium-escape"
HOSTILE: Mapping[str, tuple[Callable[[], bytes], Reason]] = {
    "deflate bomb": (lambda: deflated(image(pixels=bytes(64 * 2**20))), Reason.TOO_LARGE),
    "3,000 deep": (lambda: part10(nested(3000)), Reason.TOO_DEEP),
    "3,000 deep, lengths defined": (
        lambda: part10(nested_defined(3000, _explicit_sequence)),
        Reason.TOO_DEEP,
    ),
    "3,000 deep, implicit": (
        lambda: part10(nested_defined(3000, _implicit_sequence), uid.ImplicitVRLittleEndian),
        Reason.TOO_DEEP,
    ),
    "3,000 deep, private": (
        lambda: part10(element((9, 0x1010), "UN", implicit(ITEM, nested_defined(3000, _private_sequence)))),
        Reason.TOO_DEEP,
    ),
    "too many items": (
        lambda: part10(element((8, 0x1140), "SQ", implicit(ITEM, b"") * 100_000)),
        Reason.TOO_LARGE,
    ),
    "too many elements": (
        lambda: part10(
            b"".join(element((0x11 + 2 * (n >> 16), n & 0xFFFF), "LO", b"") for n in range(300_000))
        ),
        Reason.TOO_LARGE,
    ),
    "too many values": (
        lambda: part10(implicit((8, 8), b"A\\" * 300_000), uid.ImplicitVRLittleEndian),
        Reason.TOO_LARGE,
    ),
    "too many numbers": (
        lambda: part10(implicit((0x28, 0x10), bytes(2**20)), uid.ImplicitVRLittleEndian),
        Reason.TOO_LARGE,
    ),
    "a header without end": (
        lambda: part10(element((9, 0x1010), "OB", bytes(40 * 2**20)) + image()),
        Reason.TOO_LARGE,
    ),
    "an element of 4 GiB": (
        lambda: part10(element((8, 0x18), "UN", b"x", UNDEFINED - 1) + image()),
        Reason.NO_PIXELS,
    ),
    "an item that is longer than its sequence": (
        lambda: part10(
            element((8, 0x1140), "SQ", implicit(ITEM, b"", 999) + implicit(SEQUENCE_END, b""), UNDEFINED)
            + image()
        ),
        Reason.UNREADABLE,
    ),
    "a sequence without end": (
        lambda: part10(element((8, 0x1140), "SQ", implicit(ITEM, b"", UNDEFINED), UNDEFINED)),
        Reason.UNREADABLE,
    ),
    "pixels that are not there": (lambda: part10(image(65535, 65535, 16, bytes(10))), Reason.TOO_LARGE),
    "fewer pixels than claimed": (lambda: part10(image(64, 64, 16, bytes(8190))), Reason.TRUNCATED),
    "no bits": (lambda: part10(image(4, 4, 0, b"")), Reason.BAD_PIXELS),
    "runs that are longer than the image": (
        lambda: encoded(run_lengths(150 * 2**20), uid.RLELossless),
        Reason.BAD_PIXELS,
    ),
    "a codestream of 60,000 x 60,000": (
        lambda: encoded(j2k_header(60_000, 60_000), uid.JPEG2000Lossless),
        Reason.BAD_PIXELS,
    ),
    "a JPEG of another size": (lambda: encoded(jpeg(64), uid.JPEGBaseline8Bit), Reason.BAD_PIXELS),
    "a JPEG that ends its decoder": (lambda: encoded(fatal_jpeg(), uid.JPEGBaseline8Bit), Reason.BAD_PIXELS),
    "says JPEG, is none": (lambda: part10(image(), uid.JPEGBaseline8Bit), Reason.BAD_PIXELS),
    "says JPEG 2000, is text": (
        lambda: encoded(b"not an image" * 9, uid.JPEG2000Lossless),
        Reason.BAD_PIXELS,
    ),
    "a syntax of nobody": (lambda: part10(image(), "1.2.3.4"), Reason.UNKNOWN_SYNTAX),
    "a traversal for a syntax": (
        lambda: part10(element((8, 0x18), "UI", _TRAVERSAL) + image(), _TRAVERSAL.decode()),
        Reason.UNKNOWN_SYNTAX,
    ),
    "an archive": (lambda: b"PK\x03\x04" + bytes(600), Reason.NOT_DICOM),
    "nothing": (lambda: b"", Reason.NOT_DICOM),
    "a preamble and no more": (lambda: PREAMBLE, Reason.NO_PIXELS),
    "half of a length": (lambda: part10(struct.pack("<HH2sH", 8, 0x1140, b"SQ", 0)), Reason.UNREADABLE),
}
"""What it is -> (its bytes, why it is not read)."""


def write_hostile(folder: Path) -> dict[str, Path]:
    """Every hostile file, by what it is."""
    paths = {name: folder / f"{place:02}.dcm" for place, name in enumerate(HOSTILE)}
    for name, path in paths.items():
        path.write_bytes(HOSTILE[name][0]())
    return paths


def mr(z: float = 0.0, **attributes: Any) -> Dataset:
    """The header of one axial slice of a series, 4 rows x 6 columns of its own number."""
    slice_ = Dataset()
    slice_.file_meta = FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    slice_.SOPClassUID = uid.MRImageStorage
    slice_.Modality, slice_.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M"]
    slice_.SOPInstanceUID = uid.generate_uid(entropy_srcs=[repr((z, sorted(attributes.items(), key=str)))])
    slice_.StudyInstanceUID, slice_.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [0, 0, z], [1, 0, 0, 0, 1, 0]
    slice_.PixelSpacing, slice_.SliceThickness, slice_.InstanceNumber = [2, 3], 5, 1
    with quiet():
        for keyword, value in attributes.items():
            setattr(slice_, keyword, value)
    return slice_


def write(path: Path, header: Dataset, values: NDArray[Any] | None = None) -> Path:
    """Save a slice with `values`, `(rows, columns)` or `(frames, rows, columns)` of 16 bits."""
    stored = np.zeros((4, 6), np.int16) if values is None else values.astype(np.int16)
    header.Rows, header.Columns = stored.shape[-2:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    if stored.ndim > 2:
        header.NumberOfFrames = stored.shape[0]
    header.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet():
        header.save_as(path, enforce_file_format=True)
    return path


def write_encoded(path: Path, syntax: str = uid.RLELossless, values: NDArray[Any] | None = None) -> Path:
    """Save a slice whose pixels need a decoder."""
    header = mr()
    write(path, header, values)
    header.compress(syntax, generate_instance_uid=False)
    header.save_as(path, enforce_file_format=True)
    return path

"""The header of one DICOM file, which may mean harm.

    file -> head (at most MOST_HEADER bytes of it, inflated if need be)
         -> structure.measure: walked without building anything
         -> pydicom: a `Dataset`

Every failure is a `DicomError` with a `Reason`; nothing else is raised for what a file holds,
so that a folder is read to its end whatever lies in it. `imaging.pixels` goes on from here.

A header's values are read through `text`, `number` and `numbers`: what is absent, empty or
not of its type is None there, since all three are common and none is a reason to stop.
"""

import io
import logging
import math
import warnings
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import config, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from imaging.reasons import Reason
from imaging.structure import PIXELS, begins_pixels, is_implicit, measure
from protocol.errors import DicomError

logging.getLogger("pydicom").setLevel(logging.CRITICAL)
# It logs the values that it finds strange, and these may name a patient.

MIB = 2**20
MOST_HEADER = 32 * MIB
"""Bytes before the pixels, and of a whole deflated data set."""
MOST_FILE = 2048 * MIB

PREAMBLE, PREFIX = 128, b"DICM"
META_GROUP, COMMAND_GROUP = 2, 0
FIRST_GROUPS = frozenset({2, 8})
"""Groups that a file without preamble may begin with."""


def read_header(path: Path) -> Dataset:
    """Return everything before the pixels, `file_meta` with a transfer syntax included.

    A file without preamble or without file meta information is read if its structure holds; its
    transfer syntax is then the one it was found in.

    Raises:
        DicomError: NOT_DICOM, UNREADABLE, TOO_LARGE or TOO_DEEP.
    """
    with failures(Reason.UNREADABLE):
        return _parse(_head(path, MOST_HEADER))


def read_whole(path: Path, most: int = MOST_FILE) -> Dataset:
    """Return header and pixel data, these still encoded, from at most `most` bytes of the file.

    What stands behind the pixels is left out, for it was not measured.

    Raises:
        DicomError: as `read_header`.
    """
    with failures(Reason.UNREADABLE):
        return _parse(_head(path, most), pixels=True)


def text(header: Dataset, keyword: str) -> str:
    """Return an element's value as text, several joined by backslashes; empty where there is none."""
    values = _values(header, keyword)
    return "\\".join(str(each).strip() for each in values)


def number(header: Dataset, keyword: str) -> float | None:
    """Return an element's first value as a finite number, or None."""
    found = numbers(header, keyword)
    return found[0] if found else None


def numbers(header: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
    """Return an element's values as finite numbers, exactly `count` of them if given, or None."""
    found = _finite(_values(header, keyword))
    return found if found and count in {None, len(found)} else None


def private_numbers(header: Dataset, group: int, creator: str, element: int) -> tuple[float, ...] | None:
    """Return a private element's values as finite numbers, or None; `element` within its creator's block."""
    return _finite(_private(header, group, creator, element))


def private_items(header: Dataset, group: int, creator: str, element: int) -> list[Dataset]:
    """Return a private sequence's items; none where it is absent or no sequence."""
    found = _private(header, group, creator, element)
    return [each for each in _listed(found) if isinstance(each, Dataset)]


def _private(header: Dataset, group: int, creator: str, element: int) -> Any:
    if all(tag >> 16 != group for tag in header.keys()):  # noqa: SIM118 - the values would be decoded
        return None
    try:
        with quiet():
            return header.private_block(group, creator)[element].value
    except Exception:  # noqa: BLE001 - no such block, or a value that its own type does not fit
        return None


def items(header: Dataset, keyword: str) -> list[Dataset]:
    """Return a sequence's items; none where it is absent or no sequence."""
    return [each for each in _values(header, keyword) if isinstance(each, Dataset)]


def _values(header: Dataset, keyword: str) -> list[Any]:
    if keyword not in header:
        return []
    with quiet():
        try:
            return _listed(header.get(keyword))
        except Exception:  # noqa: BLE001 - a value is decoded when it is asked for, and may be anything
            return []


def _listed(value: Any) -> list[Any]:
    if value is None or isinstance(value, bytes):
        return []
    return list(value) if isinstance(value, (MultiValue, Sequence, list, tuple)) else [value]


def _finite(value: Any) -> tuple[float, ...] | None:
    """Return numbers, however they were written; None if one of them is none."""
    try:
        if isinstance(value, bytes):  # of a type that is not known: text is the one that tells itself
            value = value.decode("ascii").strip("\0 ").split("\\")
        found = tuple(float(each) for each in _listed(value))
    except (TypeError, ValueError):
        return None
    return found if found and all(map(math.isfinite, found)) else None


@contextmanager
def quiet() -> Generator[None]:
    """Let pydicom take values as they come, without a word: half of all archives break some rule."""
    if config.settings.reading_validation_mode == config.IGNORE:  # within another: each costs
        yield
        return
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


# -- Bytes -----------------------------------------------------------------------------------


@contextmanager
def failures(reason: Reason) -> Generator[None]:
    """Give whatever a parser or a decoder stumbles over its reason, without the values it stumbled over."""
    try:
        with quiet():
            yield
    except DicomError:
        raise
    except RecursionError:
        raise DicomError(Reason.TOO_DEEP, "its sequences nest too deep") from None
    except MemoryError:
        raise DicomError(Reason.TOO_LARGE, "it needs more memory than there is") from None
    except OSError as error:
        raise DicomError(Reason.UNREADABLE, f"the file cannot be opened ({error.strerror})") from None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this file's failure alone
        raise DicomError(reason, f"{type(error).__name__} while it was read; export it anew") from None


def _head(path: Path, most: int) -> bytes:
    """Return the file's first `most` bytes, or all it has."""
    if not path.is_file():
        raise DicomError(Reason.NOT_DICOM, "it is no file")  # a pipe would be waited on for ever
    with path.open("rb") as file:
        return file.read(min(most, path.stat().st_size))


def _parse(data: bytes, *, pixels: bool = False) -> Dataset:
    """Return the data set in a file's bytes, its pixel data too if `pixels`."""
    start = PREAMBLE + 4 if data[PREAMBLE : PREAMBLE + 4] == PREFIX else 0
    if start == 0 and not _begins(data):
        raise DicomError(Reason.NOT_DICOM, "it does not begin as a DICOM file")
    meta, start = _meta(data, start)
    syntax = uid.UID(text(meta, "TransferSyntaxUID"))
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        data, start = _inflated(data[start:]), 0
    implicit, little = _encoding(data, start, syntax)
    end = measure(data, start, implicit=implicit, little=little)
    if len(data) >= MOST_HEADER and not begins_pixels(data, end, little=little):
        raise DicomError(Reason.TOO_LARGE, f"its header has more than {MOST_HEADER // MIB} MiB")
    body = io.BytesIO(data if pixels else data[:end])
    body.seek(start)
    dataset = read_dataset(body, implicit, little, stop_when=_after_pixels() if pixels else None)
    dataset.file_meta = meta
    if not syntax:
        meta.TransferSyntaxUID = _native(implicit=dataset.original_encoding[0] or False, little=little)
    return dataset


def _after_pixels() -> Callable[..., bool]:
    """Return what tells pydicom to stop: whatever stands behind the pixels was not measured."""
    passed = False

    def stop(tag: int, *_: object) -> bool:
        nonlocal passed
        after, passed = passed, passed or tag in PIXELS
        return after

    return stop


def _begins(data: bytes) -> bool:
    """Tell whether bytes without preamble begin with an element of a group that comes first."""
    return bool({int.from_bytes(data[:2], "little"), int.from_bytes(data[:2], "big")} & FIRST_GROUPS)


def _meta(data: bytes, start: int) -> tuple[FileMetaDataset, int]:
    """Return the file meta information (always explicit, little-endian) and where the data set starts."""
    end = start
    if data[start : start + 2] == b"\x02\x00":
        end = measure(data, start, implicit=False, little=True, group=META_GROUP)
    meta = FileMetaDataset(read_dataset(io.BytesIO(data[start:end]), False, True))
    if data[end : end + 2] == b"\x00\x00":  # a network message's command set that was saved along
        end = measure(data, end, implicit=True, little=True, group=COMMAND_GROUP)
    return meta, end


def _inflated(data: bytes) -> bytes:
    """Return a deflated data set (PS3.5 A.5), of which no more than a header's worth is ever made."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    body = stream.decompress(data, MOST_HEADER)
    if stream.unconsumed_tail:
        raise DicomError(Reason.TOO_LARGE, f"it inflates to more than {MOST_HEADER // MIB} MiB")
    return body


def _encoding(data: bytes, start: int, syntax: uid.UID) -> tuple[bool, bool]:
    """Return (implicit VR, little-endian) as the data set is, which is not always as its syntax says."""
    if syntax:
        known = not syntax.is_private and syntax.is_transfer_syntax
        return is_implicit(data, start), syntax.is_little_endian if known else True
    # A big-endian group of less than 0x0100 reads as at least 0x0100 in little-endian.
    return is_implicit(data, start), data[start : start + 1] != b"\x00" or data[
        start + 1 : start + 2
    ] == b"\x00"


def _native(*, implicit: bool, little: bool) -> uid.UID:
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if implicit else explicit

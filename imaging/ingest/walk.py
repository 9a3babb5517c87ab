"""What lies under some folders and zip files: one entry a file.

Links are not followed, so nothing outside of what was named is read. A DICOMDIR is passed over in favour
of the files that it lists, and stands for its folder where it is named itself. Names that begin with a dot
are not looked at, and a zip file in a zip file is an unknown file. A member of a zip file is unpacked alone,
under a name of ours, and never beyond the size that is allowed, whatever its own header says.
"""

import os
import zipfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

from imaging.dicom import MOST_FILE
from imaging.reasons import Reason
from protocol.errors import DataError, DicomError

DIRECTORY = "DICOMDIR"
MOST_MEMBERS = 1_000_000
_PIECE = 2**20


class Entry(NamedTuple):
    """One file, or one `member` of the zip file at `path`; `stamp` changes when it is written anew."""

    path: str
    member: str
    size: int
    stamp: int

    @property
    def name(self) -> str:
        """Path and member as one text; it may name a patient."""
        return f"{self.path}\0{self.member}" if self.member else self.path

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders above it, outermost first, and its own name."""
        return Path(self.path).parts + (Path(self.member).parts if self.member else ())


def walk(sources: Iterable[Path]) -> Iterator[Entry]:
    """Yield what lies under `sources`, each once, in an order that depends on nothing but names.

    Raises:
        DataError: a source is not there.
    """
    places = sorted({_place(source.absolute()) for source in sources})
    missing = [place for place in places if not place.exists()]
    if missing:
        raise DataError(f"{len(missing)} of {len(places)} sources are not there: give folders or zip files")
    seen = set[Path]()
    for path in (path for place in places for path in _files(place)):
        if path not in seen:
            seen.add(path)
            yield from _members(path) if path.suffix.lower() == ".zip" else [_entry(path)]


@contextmanager
def opened(entry: Entry, work: Path) -> Generator[Path]:
    """Give a path under which the entry can be read; a member is unpacked into `work` for as long.

    Raises:
        DicomError: UNREADABLE or TOO_LARGE, for a member that cannot be unpacked.
    """
    if not entry.member:
        yield Path(entry.path)
        return
    with TemporaryDirectory(dir=work) as folder:
        suffixes = "".join(Path(entry.member).suffixes[-2:]).lower()
        target = Path(folder) / ("member.nii.gz" if suffixes.endswith(".nii.gz") else "member")
        _unpack(entry, target)
        yield target


def _place(source: Path) -> Path:
    return source.parent if source.is_file() and source.name.upper() == DIRECTORY else source


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    for folder, below, names in os.walk(place):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found = (Path(folder) / name for name in sorted(names) if _is_meant(name))
        yield from (path for path in found if path.is_file() and not path.is_symlink())


def _is_meant(name: str) -> bool:
    return not name.startswith(".") and name.upper() != DIRECTORY


def _entry(path: Path) -> Entry:
    found = path.stat()
    return Entry(str(path), "", found.st_size, found.st_mtime_ns)


def _members(path: Path) -> Iterator[Entry]:
    """Yield a zip file's members; one that cannot be opened, or has too many, is yielded as it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile):
        members = []
    if not 0 < len(members) <= MOST_MEMBERS:
        yield _entry(path)
    for member in members:
        if not member.is_dir() and _is_meant(Path(member.filename).name):
            yield Entry(str(path), member.filename, member.file_size, _seconds(member))


def _seconds(member: zipfile.ZipInfo) -> int:
    """Return when a member was written; its check sum stands for that where it does not say."""
    try:
        return int(datetime(*member.date_time).timestamp())  # noqa: DTZ001 - zip files know no zone
    except ValueError:
        return member.CRC


def _unpack(entry: Entry, target: Path) -> None:
    try:
        with zipfile.ZipFile(entry.path) as archive, archive.open(entry.member) as source:
            _copy(source, target)
    except DicomError:
        raise
    except Exception as error:  # noqa: BLE001 - encrypted, broken, of an unknown compression
        raise DicomError(
            Reason.UNREADABLE, f"it cannot be unpacked ({type(error).__name__}); export it anew"
        ) from None


def _copy(source: IO[bytes], target: Path) -> None:
    left = MOST_FILE
    with target.open("wb") as copy:
        while piece := source.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise DicomError(Reason.TOO_LARGE, f"it unpacks to more than {MOST_FILE // 2**20} MiB")
            copy.write(piece)

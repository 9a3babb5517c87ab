"""Where a study that was fetched lies until it is read: one folder, bounded, for the owner alone.

A file is there whole or not at all, under a name that says nothing: after a kill, what is there need not
be fetched again. The bound is for one study, which is dropped before the next one comes.
"""

import os
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from imaging.dicom import MOST_FILE
from imaging.pseudonyms import Pseudonyms
from imaging.reasons import Reason
from protocol.errors import DicomError
from protocol.files import PRIVATE

ARRIVING = ".arriving"
"""Where parts of images are; nothing is read there."""
TOO_LARGE = "an image is larger than any that is taken"
FULL = "the study is larger than `spool_gib` in pacs.yaml"


class Spool:
    """The folder of one study; `left` bytes may still come."""

    def __init__(self, folder: Path, most_bytes: int, pseudonyms: Pseudonyms) -> None:
        self.folder = folder
        self.arriving = folder / ARRIVING
        shutil.rmtree(self.arriving, ignore_errors=True)
        self.arriving.mkdir(parents=True, mode=0o700)
        self._pseudonyms = pseudonyms
        self._left = most_bytes - sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        self._lock = threading.Lock()  # several images come at once

    def path(self, image: str) -> Path:
        """Return where an image is, or will be."""
        return self.folder / self._pseudonyms.identifier("image in a PACS", image)

    def has(self, image: str) -> bool:
        """Tell whether an image is there; a file that is empty lost its bytes with the machine's power."""
        path = self.path(image)
        return path.exists() and path.stat().st_size > 0

    @contextmanager
    def place(self, image: str) -> Generator[IO[bytes]]:
        """Give a file to write an image into; it is in the spool if nothing is raised."""
        partial = self.arriving / self.path(image).name
        try:
            with partial.open("w+b") as file:
                os.fchmod(file.fileno(), PRIVATE)
                yield file
            self.take(partial, image)
        finally:
            partial.unlink(missing_ok=True)

    def take(self, file: Path, image: str) -> None:
        """Take a whole file that already lies in the folder.

        Raises:
            DicomError: TOO_LARGE.
        """
        size = file.stat().st_size
        self.require(size)
        with self._lock:
            self._left -= size
        os.utime(file, (0, 0))  # what comes again under the same UID is the same image, and not read again
        file.chmod(PRIVATE)
        file.replace(self.path(image))

    @property
    def room(self) -> int:
        """The largest file that may come."""
        return min(MOST_FILE, self._left)

    def require(self, size: int) -> None:
        """Check that a file of `size` bytes may come.

        Raises:
            DicomError: TOO_LARGE.
        """
        if size > MOST_FILE:
            raise DicomError(Reason.TOO_LARGE, TOO_LARGE)
        if size > self._left:
            raise DicomError(Reason.TOO_LARGE, FULL)

    def drop(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

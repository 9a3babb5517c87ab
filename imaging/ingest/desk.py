"""What is needed to admit files and to build patients, wherever in a process of its own that happens."""

import re
from dataclasses import dataclass
from pathlib import Path

from imaging.burned_in import Blackening, read_blackenings
from imaging.ingest import journal
from imaging.ingest.settings import Method, read_method
from imaging.ingest.walk import Entry
from imaging.pseudonyms import Pseudonyms, read_pseudonyms
from protocol.errors import SettingsError

CLEAN, WORK = ".clean", ".work"


@dataclass(frozen=True)
class Desk:
    """The cohort's folder, the site's key and rules, and where these were read from."""

    folder: Path
    pseudonyms: Pseudonyms
    method: Method
    blackenings: tuple[Blackening, ...]
    sources: tuple[Path, Path | None, Path | None]

    @staticmethod
    def at(folder: str, key: str, settings: str | None = None, blackenings: str | None = None) -> "Desk":
        """Read the files at these paths; the key is made if there is neither it nor any cohort.

        Raises:
            SettingsError: one of them cannot be read, or is wrong, or the key of a cohort is lost.
        """
        _require_key(Path(key), Path(folder).parent)
        method, rules = _optional(settings), _optional(blackenings)
        return Desk(
            Path(folder),
            read_pseudonyms(Path(key)),
            read_method(method),
            read_blackenings(rules) if rules else (),
            (Path(key), method, rules),
        )

    def paths(self) -> dict[str, str | None]:
        """Return what `at` makes the same desk of."""
        key, settings, blackenings = (None if path is None else str(path) for path in self.sources)
        return {"folder": str(self.folder), "key": key, "settings": settings, "blackenings": blackenings}

    def digest(self, entry: Entry) -> str:
        """Return what stands for a file's path."""
        return self.pseudonyms.identifier("path", entry.name)

    def patient(self, name: str) -> str:
        """Return what stands for a patient's number."""
        return self.pseudonyms.identifier("patient", name.strip())

    def study(self, patient: str, visit: str) -> str:
        """Return what stands for a visit; empty if it has no name."""
        return self.pseudonyms.identifier("study", f"{patient} {visit}") if visit else ""

    def clean(self, patient: str) -> Path:
        """Return the folder of a patient's de-identified copies."""
        return self.folder / CLEAN / _sound(patient)

    def scans(self, patient: str) -> Path:
        """Return the folder of a patient's finished scans."""
        return self.folder / _sound(patient)

    @property
    def work(self) -> Path:
        """Return the folder for what is unpacked and half built; a run empties it."""
        return self.folder / WORK


def _require_key(key: Path, cohorts: Path) -> None:
    """Refuse a new key beside old cohorts: in them a patient would have two names, one a side of a split."""
    if not key.exists() and any(cohorts.glob(f"*/{journal.NAME}")):
        raise SettingsError(f"{key}: is missing, and cohorts were made with it: restore it from a backup")


def _sound(patient: str) -> str:
    """Return a stand-in that is one: folders of this name are removed as a whole."""
    if not re.fullmatch("[0-9A-F]{16}", patient):
        raise ValueError("not a patient's stand-in")
    return patient


def _optional(path: str | None) -> Path | None:
    return None if path is None else Path(path)

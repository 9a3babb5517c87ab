"""`manifest.json`: what a cohort holds, how it came about, and a hash of each of its files.

    version    1, 2, ...: counts up whenever the content changes
    content    SHA-256 over everything below
    method     the settings, a hash of the rules, versions of the libraries that touch voxels
    patients   stand-in -> record (`imaging.ingest.build`)
    tables     name -> SHA-256 of its file

It never leaves the site. What others may know of a cohort is its summary, through the policy.
"""

import csv
import hashlib
import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imaging.ingest.settings import Method
from imaging.sheets import PATIENT, Row
from protocol import files
from protocol.errors import DataError

NAME = "manifest.json"
_LIBRARIES = ("numpy", "nibabel", "pydicom", "SimpleITK")

Manifest = dict[str, Any]
Rows = dict[str, Row]
"""Patient's stand-in -> a table's other columns."""


def write_manifest(
    folder: Path, method: dict[str, object], records: Manifest, sheets: dict[str, Rows]
) -> Manifest:
    """Write the tables and the manifest, and return it; one with the same content is left as it is."""
    patients = {patient: record for patient, record in records.items() if record["scans"]}
    tables = {
        sheet: _write_table(folder / f"{sheet}.csv", rows, {*patients}) for sheet, rows in sheets.items()
    }
    libraries = {name: version(name) for name in _LIBRARIES}
    body = {"method": {**method, "libraries": libraries}, "patients": patients, "tables": tables}
    content = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path = folder / NAME
    old: Manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"version": 0}
    changed = old.get("content") != content
    manifest = {"version": old["version"] + changed, "content": content, **body}
    if changed:
        files.write(path, json.dumps(manifest, indent=1, sort_keys=True).encode())
    return manifest


def verify(folder: Path) -> Manifest:
    """Return the manifest of a cohort whose files are as it says.

    Raises:
        DataError: there is none, or a file is missing or has changed; the message counts, and names nobody.
    """
    try:
        manifest: Manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
        expected = dict(_files(manifest))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"no readable '{NAME}' in the cohort's folder: run `consilium site ingest`") from None
    wrong = sum(not _is(folder / name, digest) for name, digest in expected.items())
    if wrong:
        msg = f"{wrong} of {len(expected)} files of the cohort are not as its manifest says"
        raise DataError(f"{msg}: put them back, or run `consilium site ingest` with --rebuild")
    return manifest


def made_by(folder: Path, method: Method) -> bool:
    """Tell whether a folder is of a cohort that was made by just this method."""
    try:
        made: Manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))["method"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    made.pop("libraries", None)
    return made == json.loads(json.dumps(method.plain()))


def _files(manifest: Manifest) -> list[tuple[str, str]]:
    scans = [
        (f"{patient}/{name}.nii", volume["sha256"])
        for patient, record in manifest["patients"].items()
        for name, volume in record["scans"]["volumes"].items()
    ]
    return [*scans, *((f"{sheet}.csv", digest) for sheet, digest in manifest["tables"].items())]


def _is(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False


def _write_table(path: Path, rows: Rows, patients: set[str]) -> str:
    """Write the rows of those who have scans, and return the file's hash."""
    kept = {patient: row for patient, row in sorted(rows.items()) if patient in patients}
    columns = sorted({column for row in rows.values() for column in row})
    text = io.StringIO()
    writer = csv.DictWriter(text, [PATIENT, *columns], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({PATIENT: patient, **row} for patient, row in kept.items())
    data = text.getvalue().encode()
    files.write(path, data)
    return hashlib.sha256(data).hexdigest()

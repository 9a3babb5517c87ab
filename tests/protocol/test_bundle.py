"""The bundle is the installed code, the same bytes each time."""

import io
import tomllib
import zipfile
from pathlib import Path

from protocol.bundle import DESCRIPTION, PACKAGES, ROOT, bundle, bundle_hash, packed


def _names(content: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(content)).namelist())


def _files() -> dict[str, bytes | Path]:
    return (
        {"pyproject.toml": ROOT / "pyproject.toml", "client/app.py": b"a", "server/app.py": b"b"}
        | {f"{package}/x.py": b"" for package in PACKAGES}
        | {"client/policies/hospital.yaml": b"", "imaging/x.yaml": b""}
    )


def test_it_holds_all_of_the_packages_and_nothing_else() -> None:
    held = _names(bundle()) - {"pyproject.toml", ".info/CONTENT"}
    assert {path.partition("/")[0] for path in held} == set(PACKAGES)
    files = (path for name in PACKAGES for kind in ("*.py", "*.yaml") for path in (ROOT / name).rglob(kind))
    assert held == {path.relative_to(ROOT).as_posix() for path in files}


def test_the_same_files_are_the_same_bytes_in_any_order_and_any_change_is_another_hash() -> None:
    files = _files()
    backwards = dict(reversed(files.items()))
    assert packed(files) == packed(backwards)
    for path in ("client/app.py", "client/policies/hospital.yaml"):
        assert bundle_hash(packed(files | {path: b"changed"})) != bundle_hash(packed(files))


def test_a_wheel_brings_its_own_description() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"pyproject.toml": f"protocol/{DESCRIPTION}"}

"""The code of a federation, as Flower carries it: one zip, the same bytes wherever this version stands.

Flower sends the application's code from the coordinator to the sites. Here that zip (Flower's *bundle*,
a FAB) is no way to deliver code, it is a proof of equality: it is built from the installed packages,
without dates and in sorted order, so that two machines with the same version have the same SHA-256.
What a site does with another one is `client.launcher`.
"""

import warnings
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from flwr.cli.build import build_fab_from_files

from protocol.errors import SettingsError

ROOT = Path(__file__).parents[1]
PACKAGES = ("client", "imaging", "models", "privacy", "protocol", "server", "strategies")
DESCRIPTION = "pyproject.toml"
"""What says which files are in the bundle; an installed wheel has its copy in this folder."""


@lru_cache(maxsize=1)
def bundle() -> bytes:
    """Return the bundle of the installed version.

    Raises `SettingsError` for an installation that Flower cannot carry.
    """
    try:
        return packed({DESCRIPTION: _description(), **_files()})
    except (OSError, ValueError) as error:
        raise SettingsError(f"{ROOT}: not a whole installation ({error}): install it again") from error


def packed(files: Mapping[str, bytes | Path]) -> bytes:
    """Return the bundle of `files`, path -> content: those that the description among them names."""
    # Flower calls pathspec by a name that is going out of use.
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return build_fab_from_files(files)[0]


def bundle_hash(content: bytes | None = None) -> str:
    """Return the SHA-256, in hex, of `content`, by default of the installed version's bundle."""
    return sha256(bundle() if content is None else content).hexdigest()


def _description() -> Path:
    packed = Path(__file__).with_name(DESCRIPTION)
    return packed if packed.exists() else ROOT / DESCRIPTION


def _files() -> dict[str, bytes | Path]:
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix(): path for path in found if path != _description()}

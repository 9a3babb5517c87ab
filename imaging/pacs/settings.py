"""`pacs.yaml`: the archives of a hospital, by the names that `consilium site ingest pacs:NAME` calls them.

    main:                                         # DICOMweb
      url: https://pacs.hospital.example/dicom-web
      ca: hospital-ca.pem                         # whom to trust; null: the public authorities
      login: pacs.login                           # a file of mode 0600: user:password, or a bearer token
      certificate: site.pem                       # what we show, where the archive asks for it, and its key
      key: site.key.pem
      spool_gib: 20                               # the largest study that is fetched
    old:                                          # C-FIND, C-GET or C-MOVE
      host: pacs.hospital.example
      port: 11112
      aet: ARCHIVE                                # its title
      calling: CONSILIUM                          # ours, as the archive knows us
      listen: 10.1.2.3:11113                      # C-MOVE sends here; null: C-GET, without a listener
      peers: [10.1.2.4]                           # who sends, if it is not `host`
      tls: false                                  # true: as above, by ca, certificate and key

Files are looked for beside this one. A login may also stand in the environment, as CONSILIUM_PACS_LOGIN; on a
command line, where `ps` shows it, it cannot.
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml

from protocol.errors import RecipeError, SettingsError
from protocol.files import PRIVATE
from protocol.recipe import Positive, Title
from protocol.typed import Rule, fit, record

LOGIN = "CONSILIUM_PACS_LOGIN"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = parts.scheme == "http" and parts.hostname in LOOPBACK
    whole = not (parts.username or parts.password or parts.query or parts.fragment) and port != 0
    return bool(parts.hostname) and whole and (plain or parts.scheme == "https")


def _is_title(text: str) -> bool:
    return re.fullmatch(r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?", text) is not None


def _is_listen(text: str) -> bool:
    return re.fullmatch(r"[\w.-]+:\d{1,5}", text) is not None and not text.startswith("0.0.0.0:")


Url = Annotated[str, Rule("an address that begins with https://, without login", _is_url)]
AeTitle = Annotated[str, Rule("of at most 16 characters", _is_title)]
Listen = Annotated[str, Rule("ADDRESS:PORT, and no 0.0.0.0", _is_listen)]
Port = Annotated[int, Rule("in 1 to 65535", lambda value: 0 < value < 2**16)]


@dataclass(frozen=True)
class WebSettings:
    """An archive that speaks DICOMweb."""

    url: Url
    ca: Path | None = None
    login: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    spool_gib: Positive = 20.0


@dataclass(frozen=True)
class DimseSettings:
    """An archive that speaks C-FIND and C-GET or C-MOVE."""

    host: str
    port: Port
    aet: AeTitle
    calling: AeTitle = "CONSILIUM"
    listen: Listen | None = None
    peers: tuple[str, ...] = ()
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    spool_gib: Positive = 20.0

    @property
    def door(self) -> tuple[str, int] | None:
        """Address and port that are listened on."""
        host, _, port = (self.listen or "").rpartition(":")
        return (host, int(port)) if host else None


@dataclass(frozen=True)
class Pacs:
    """One entry: its name, what stands there, and what its files hold."""

    name: str
    settings: WebSettings | DimseSettings
    folder: Path
    login: str | None = field(default=None, repr=False)

    @property
    def most_bytes(self) -> int:
        """The largest study."""
        return int(self.settings.spool_gib * 2**30)

    def file(self, key: str) -> Path | None:
        """Return the file that `key` names."""
        name = getattr(self.settings, key)
        return None if name is None else self.folder / name

    def context(self, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> ssl.SSLContext:
        """Return whom to trust and what to show; both sides of a listener show a certificate."""
        try:
            context = ssl.create_default_context(purpose, cafile=self.file("ca"))
            certificate = self.file("certificate")
            if certificate is not None:
                context.load_cert_chain(certificate, self.file("key"))
        except OSError as error:
            raise SettingsError(f"pacs.yaml, {self.name}: ca, certificate or key: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def read_pacs(path: Path) -> dict[str, Pacs]:
    """Read all archives of a file.

    Raises:
        SettingsError: names the entry and the key that is wrong, or the file of a login that others may read.
    """
    try:
        found = _entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecipeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    return {
        name: Pacs(name, each, path.parent, _login(name, each, path.parent)) for name, each in found.items()
    }


def _entries(plain: Any) -> dict[str, WebSettings | DimseSettings]:
    if not isinstance(plain, Mapping):
        raise RecipeError("expected a mapping: a name for each archive, and what is told of it")
    return {fit(name, Title, "name"): _entry(name, each) for name, each in plain.items()}


def _entry(name: str, plain: Any) -> WebSettings | DimseSettings:
    is_web = isinstance(plain, Mapping) and "url" in plain
    return record(plain, WebSettings if is_web else DimseSettings, name)


def chosen(path: Path, name: str) -> Pacs:
    """Return one archive; SettingsError names those that there are."""
    if not path.exists():
        raise SettingsError(
            f"{path} is not there: describe the PACS in it (imaging/pacs/settings.py says how)"
        )
    found = read_pacs(path)
    if name not in found:
        raise SettingsError(f"{path}: has no '{name}', but {', '.join(found) or 'nothing'}")
    return found[name]


def _login(name: str, settings: WebSettings | DimseSettings, folder: Path) -> str | None:
    """Return user and password or a token, from a file that nobody else may read or from the environment."""
    if not isinstance(settings, WebSettings) or settings.login is None:
        return os.environ.get(LOGIN)
    path = folder / settings.login
    try:
        if path.stat().st_mode & 0o777 & ~PRIVATE:
            raise SettingsError(f"{path}: others may read the login of '{name}': chmod 600 it")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the login of '{name}' cannot be read ({error})") from None

"""`federation.yaml`: what people have agreed on, as they write it down.

    name: brain
    server: {host: consilium.example.org, port: 8443, also: [10.0.0.7]}
    contacts: ["Ada Example, ada@example.org"]
    sites:
      north: "Radiology IT, it@north.example"

The file is read, never written anew: its comments are people's. A site is added as one line at its
end, and only where that does what it should.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from protocol import files
from protocol.errors import RecipeError, SettingsError
from protocol.recipe import Title, read_plain
from protocol.typed import Rule, fit, record

PORT = 8443
_LONGEST = 253
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_TEMPLATE = """\
# A federation as its people agreed on it. After a change: consilium federation provision

name: {name}
server:
  host: {host}
  port: {port}
  also: []       # further names or IP addresses by which sites reach it
contacts: []     # whom sites call about it, e.g. ["Ada Example, ada@example.org"]

# One line a site: its name, which stays for ever, and whom to call there, e.g.
#   north: "Radiology IT, it@north.example"
# New ones go to the end of this file; `consilium federation add SITE` writes them there.
sites:
"""


def is_host(text: str) -> bool:
    """Say whether `text` is a host's name or an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return len(text) <= _LONGEST and all(_LABEL.fullmatch(label) for label in text.split("."))
    return True


Host = Annotated[str, Rule("that is a host's name or an IP address", is_host)]
Port = Annotated[int, Rule("in 1 to 65535", lambda value: 0 < value < 1 << 16)]


@dataclass(frozen=True)
class Server:
    """Where sites reach the coordinator."""

    host: Host
    port: Port = PORT
    also: tuple[Host, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """All names and addresses that its certificate must have; the last is for its own processes."""
        return tuple(dict.fromkeys((self.host, *self.also, "127.0.0.1")))

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Federation:
    """All of it, see the module; `sites` maps each site's name to whom to call there."""

    name: Title
    server: Server
    contacts: tuple[str, ...] = ()
    sites: Mapping[Title, str] = field(default_factory=lambda: MappingProxyType({}))


def new_federation(path: Path, name: str, host: str, port: int = PORT) -> Federation:
    """Write a commented file to begin with; SettingsError where one is there, or a value is none."""
    text = _TEMPLATE.format(name=json.dumps(name), host=json.dumps(host), port=port)
    federation = _parse(text)
    try:
        files.create(path, text.encode(), files.PUBLIC)
    except FileExistsError:
        raise SettingsError(f"{path} is there already: edit it, or give another --home") from None
    return federation


def read_federation(path: Path) -> Federation:
    """Read the file; SettingsError names the key that is wrong."""
    return _parse(_text(path))


def add_site(path: Path, site: str, contact: str) -> Federation:
    """Add a line for `site`; SettingsError where it is there already, or its line must go elsewhere."""
    text = _text(path)
    before = _parse(text)
    if site in before.sites:
        raise SettingsError(f"{path}: site '{site}' is there already")
    _fit_title(site)
    line = f"  {site}: {json.dumps(contact)}"
    longer = f"{text.rstrip()}\n{line}\n"
    after = replace(before, sites={**before.sites, site: contact})
    if not _says(longer, after):
        raise SettingsError(f"{path}: add this line under `sites` yourself, others come last here:\n{line}")
    files.write(path, longer.encode(), files.PUBLIC)
    return after


def _says(text: str, expected: Federation) -> bool:
    try:
        return _parse(text) == expected
    except SettingsError:
        return False


def _parse(text: str) -> Federation:
    try:
        plain = read_plain(text, "federation.yaml")
        return record({key: item for key, item in plain.items() if item is not None}, Federation, "")
    except RecipeError as error:
        raise SettingsError(f"federation.yaml: {error}") from error


def _fit_title(site: str) -> None:
    try:
        fit(site, Title, "sites")
    except RecipeError as error:
        raise SettingsError(str(error)) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read ({error}): give --home, or begin with `consilium federation init`"
        ) from error

"""`site.yaml`: facts of this machine, which nobody is told.

    site: north
    federation: brain
    server: consilium.example.org:8443
    data: /srv/scans
    device: cpu            # or cuda, cuda:1
    threads: 0             # of the CPU; 0 leaves it to torch
    proxy: null            # or http://proxy.hospital.example:3128

`client.settings` is what a task is given of it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import yaml

from client.home import SiteHome
from client.settings import Settings
from privacy.kit import Address, parse_address
from protocol import files
from protocol.errors import RecipeError, SettingsError
from protocol.recipe import Natural, Title
from protocol.typed import Rule, record

_TEMPLATE = """\
# Facts of this machine. Nobody is told them; a change counts from the next start of the site.

# As the coordinator's kit says; the names are in what was signed, so they stay.
site: {site}
federation: {federation}
server: {server}

# Folder of this hospital's scans: read, never written.
data: {data}

# Where to train: cpu, cuda, cuda:1. Threads of the CPU; 0 leaves their number to torch.
device: {device}
threads: {threads}

# The way out: null is directly, else http://proxy.hospital.example:3128 or http://user:password@...
proxy: {proxy}
"""


def _is_proxy(text: str) -> bool:
    return re.fullmatch(r"http://([^@/\s]+@)?[^@:/\s]+:\d{1,5}/?", text) is not None


Proxy = Annotated[str, Rule("such as http://proxy.hospital.example:3128", _is_proxy)]


@dataclass(frozen=True)
class Machine:
    """All of it, see the module."""

    site: Title
    federation: Title
    server: Address
    data: Path
    device: str = "cpu"
    threads: Natural = 0
    proxy: Proxy | None = None

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port of the server."""
        return parse_address(self.server)

    @property
    def gateway(self) -> tuple[str, int] | None:
        """Host and port of the proxy, if there is one."""
        parts = urlsplit(self.proxy or "")
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None

    @property
    def gateway_login(self) -> str | None:
        """User and password for the proxy, as `user:password`."""
        login, at, _ = urlsplit(self.proxy or "").netloc.rpartition("@")
        return unquote(login) if at else None


def read_machine(home: SiteHome) -> Machine:
    """Read `site.yaml`; SettingsError names the key that is wrong."""
    path = home.settings
    try:
        return _parse(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}): first `consilium site join KIT`") from error


def write_machine(home: SiteHome, machine: Machine) -> None:
    """Write a commented `site.yaml` to begin with; FileExistsError where there is one."""
    values = {**vars(machine), "data": str(machine.data.resolve())}
    text = _TEMPLATE.format(**{key: json.dumps(value) for key, value in values.items()})
    _parse(text, home.settings)
    files.create(home.settings, text.encode())  # a proxy may have a password


def settings_of(home: SiteHome) -> Settings:
    """Return what tasks are given of this machine."""
    machine = read_machine(home)
    return Settings(
        machine.site,
        home.folder / machine.data,
        home.state,
        device=machine.device,
        threads=machine.threads,
        policy=home.policy,
        federation=home.pins,
        ledger=home.ledger,
        key=home.key,
    )


def _parse(text: str, path: Path) -> Machine:
    try:
        return record(yaml.safe_load(text), Machine, "")
    except (RecipeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: {error}") from error

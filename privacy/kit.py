"""The startup kit: what a site must know of a federation before it can ask to be in it.

    kit.zip
      kit.json     federation, site, server as host:port, the coordinator's public key
      ca.pem       whom to trust as server
      README.txt   three commands

It holds no secret and may travel by mail. Whoever changed it on the way could stand in for the
coordinator, so it has a fingerprint, over the names and contents of all its files, which the
coordinator's person reads to the site's by telephone.

A kit comes from outside: nothing of it is unpacked by the name that it carries, and nothing is read that
is larger than a kit's files are.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from privacy.heads import canonical
from privacy.keys import fingerprint, same_fingerprint
from protocol.errors import RecipeError, TrustError
from protocol.recipe import Hex, Title
from protocol.typed import Rule, record

FACTS, AUTHORITY, README = "kit.json", "ca.pem", "README.txt"
_MOST_BYTES = 1 << 16
_EPOCH = (1980, 1, 1, 0, 0, 0)
_HOSTILE = (ValueError, RuntimeError, NotImplementedError, EOFError, OSError)
"""What `zipfile` raises for archives that lie: encrypted, cut off, packed in other ways."""


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`, `[::1]:port` included; ValueError where it is none."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or not port.isdecimal() or not 0 < int(port) < 1 << 16 or "/" in bare:
        raise ValueError(text)
    return bare, int(port)


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


Address = Annotated[str, Rule("such as consilium.example.org:8443", _is_address)]


@dataclass(frozen=True)
class Facts:
    """What `kit.json` says; the key in hexadecimal."""

    federation: Title
    site: Title
    server: Address
    coordinator: Hex


@dataclass(frozen=True)
class Kit:
    """A kit that was read: its facts, the CA's certificate, and the kit's fingerprint."""

    facts: Facts
    authority: bytes
    digest: bytes

    @property
    def fingerprint(self) -> str:
        """What the coordinator reads out and the site compares."""
        return fingerprint(self.digest)

    def require(self, heard: str) -> None:
        """Raise TrustError unless `heard` is the kit's fingerprint."""
        if not same_fingerprint(heard, self.digest):
            raise TrustError(
                "that is not this kit's fingerprint: it was mistyped, or the kit was changed or is "
                "another one. If it was typed rightly, do not use the kit; have the coordinator send it again"
            )


def pack_kit(facts: Facts, authority: bytes) -> bytes:
    """Return the kit as a zip; the same facts give the same bytes."""
    contents = {
        FACTS: json.dumps(vars(facts), indent=1).encode(),
        AUTHORITY: authority,
        README: _readme(facts).encode(),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return packed.getvalue()


def read_kit(data: bytes) -> Kit:
    """Read a kit; TrustError where it is none. Whether it is the right one only its fingerprint says."""
    try:
        contents = _contents(data)
        facts = record(json.loads(contents[FACTS]), Facts, "")
    except (zipfile.BadZipFile, zlib.error, RecursionError, RecipeError, *_HOSTILE) as error:
        raise TrustError(
            f"this is no startup kit of ours ({error}): have the coordinator send it again"
        ) from error
    return Kit(facts, contents[AUTHORITY], _digest(contents))


def _contents(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sorted(archive.namelist()) != sorted((FACTS, AUTHORITY, README)):
            raise ValueError("it holds other files than a kit does")
        return {info.filename: _bounded(archive, info) for info in archive.infolist()}


def _bounded(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        data = file.read(_MOST_BYTES + 1)  # what the archive says of its sizes may be a lie
    if len(data) > _MOST_BYTES:
        raise ValueError("it is larger than a kit")
    return data


def _digest(contents: Mapping[str, bytes]) -> bytes:
    return canonical({name: sha256(data).hexdigest() for name, data in contents.items()}).encode()


def _readme(facts: Facts) -> str:
    return f"""\
Site {facts.site} of the federation {facts.federation}. Three commands, in a folder that only you may read:

1. Make this site's keys. You are asked for the kit's fingerprint: have the coordinator read it to you by
   telephone, from a number that you knew before. Then send request.json to the coordinator, and read its
   fingerprint, which this command prints, to the coordinator in turn.

     consilium site join kit.zip --data FOLDER_OF_THE_SCANS

2. When membership.json comes back:

     consilium site join membership.json

3. See whether all is well: disk, GPU, clock, certificates, the way to {facts.server}, data, policy.

     consilium site doctor

Nothing here is secret. What this site may be asked is up to the file policy.yaml beside its keys; as it is
made, it allows no recipe. The private keys site.key and auth.key never leave this machine.
"""

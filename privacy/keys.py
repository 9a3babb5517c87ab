"""Who is who: one Ed25519 key for each site and one for the coordinator.

A key is made where it is used and never travels. The others know its public half, 32 bytes,
from a file that everybody in the federation has and that nobody changes during a run:

    {"coordinator": "9f2c...", "sites": {"north": "51aa...", "south": "07e1..."}}

What is signed carries a *purpose*, so that a signature made for one thing never counts for
another: signature = Ed25519(len(purpose), purpose, message), RFC 8032.
"""

import json
from base64 import b32encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol import files
from protocol.errors import PrivacyError, SettingsError

KEY_BYTES = 32
SITE_KEY, COORDINATOR_KEY, FEDERATION = "site.key", "coordinator.key", "federation.json"
"""Where they lie: in a site's state folder, in the coordinator's run folder, and beside either."""


class Signer:
    """A private key at work; the key itself does not come out."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def sign(self, purpose: str, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(framed(purpose, message))


@dataclass(frozen=True)
class Pins:
    """The public keys of a federation, as this machine was told them."""

    coordinator: bytes
    sites: Mapping[str, bytes]

    def of(self, site: str) -> bytes:
        """Return a site's public key; `PrivacyError` for a site that is not in the federation."""
        if site not in self.sites:
            raise PrivacyError(f"site '{site}' is not in this federation: ask the coordinator who it is")
        return self.sites[site]


def make_signer(path: Path) -> Signer:
    """Read the private key in `path`, or make one there that only its owner may read (0600)."""
    if not path.exists():
        try:
            files.create(path, Ed25519PrivateKey.generate().private_bytes_raw())
        except OSError as error:
            raise _unusable(path, error) from error
    return signer(path)


def signer(path: Path) -> Signer:
    """Read the private key in `path`; `SettingsError` where there is none, as a new one is a stranger's."""
    try:
        return Signer(Ed25519PrivateKey.from_private_bytes(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from error


def verified(public: bytes, purpose: str, message: bytes, signature: bytes) -> bool:
    """Say whether `signature` is `public`'s on `message` for `purpose`; False for any bytes that are not."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, framed(purpose, message))
    except (InvalidSignature, ValueError):
        return False
    return True


def read_pins(path: Path) -> Pins:
    """Read a federation's public keys; `SettingsError` where the file is not one of these."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        keys = {str(site): _public(text) for site, text in plain["sites"].items()}
        return Pins(_public(plain["coordinator"]), keys)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path}: not a federation's public keys ({error!r}): fetch it again") from error


def write_pins(path: Path, pins: Pins) -> None:
    """Write what `read_pins` reads."""
    sites = {site: key.hex() for site, key in pins.sites.items()}
    plain = {"coordinator": pins.coordinator.hex(), "sites": sites}
    files.write(path, json.dumps(plain, indent=1).encode(), files.PUBLIC)


def framed(purpose: str, message: bytes) -> bytes:
    """Return what is signed for `message`; no two pairs of purpose and message share it."""
    name = purpose.encode()
    return len(name).to_bytes(2, "big") + name + message


def fingerprint(data: bytes) -> str:
    """Return 160 bits of SHA-256 as people read them out: `K4ZX-...`, eight groups of four."""
    text = b32encode(sha256(data).digest()[:20]).decode()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def same_fingerprint(heard: str, data: bytes) -> bool:
    """Say whether what a person typed is the fingerprint of `data`; dashes, blanks and case do not count."""
    return "".join(filter(str.isalnum, heard)).upper() == fingerprint(data).replace("-", "")


def _unusable(path: Path, error: Exception) -> SettingsError:
    why = error.strerror if isinstance(error, OSError) else error
    return SettingsError(f"{path}: cannot use this key ({why}): restore it from a copy, or join anew")


def _public(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        msg = f"a public key has {KEY_BYTES} bytes, not {len(key)}"
        raise ValueError(msg)
    return key

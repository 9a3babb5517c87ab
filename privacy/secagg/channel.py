"""Secrets between two sites over a coordinator that must not read them.

agree     X25519 (RFC 7748): both sides compute one secret from each other's public key
derive    HKDF-SHA256 (RFC 5869): a key of 32 bytes from it, for one use that `info` names
seal      AES-256-GCM (NIST SP 800-38D): read only with the key, and only in the same `context`
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import PrivacyError

KEY_BYTES = 32
_NONCE_BYTES = 12


def new_key() -> bytes:
    """Return a fresh private key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_of(key: bytes) -> bytes:
    """Return the public half of a private key."""
    return X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()


def agree(key: bytes, public: bytes) -> bytes:
    """Return the secret of a private and another's public key; `PrivacyError` for a key that gives none."""
    try:
        return X25519PrivateKey.from_private_bytes(key).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise PrivacyError("a site's ephemeral key is none: it sent something else") from error


def derive(secret: bytes, info: bytes) -> bytes:
    """Return a key of 32 bytes for the use that `info` names."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)


def seal(key: bytes, text: bytes, context: bytes) -> bytes:
    """Return `text` so that only who has the key can read or change it."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Return the text; `PrivacyError` where it was sealed by another key, changed, or meant elsewhere."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
    except (InvalidTag, ValueError) as error:
        raise PrivacyError("a letter cannot be opened: it was changed, or is of another round") from error

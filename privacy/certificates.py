"""A federation's own certificate authority, its server's certificate, and the keys of its nodes.

    CA, 10 years       made by the coordinator, once; signs nothing but the server's certificate
    server, 1 year     names every host and IP address by which sites reach it (RFC 5280, 6125)
    node key           made at each site; Flower's node authentication knows a site by its public half

A site trusts this one CA and none of the hundreds that a browser trusts, so nobody else can stand in for the
coordinator. All keys are on the curve P-384, which is what Flower takes for nodes; theirs are
written as OpenSSH writes them, since `flower-supernode` and `flwr supernode register` read that.

Certificates begin an hour before they were made: a hospital's clock may run behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.keys import framed
from protocol import files
from protocol.errors import SettingsError, TrustError

AUTHORITY_LASTS, SERVER_LASTS = timedelta(days=3650), timedelta(days=365)
_CURVE, _HASH = ec.SECP384R1(), SHA384()
_SLACK = timedelta(hours=1)
_NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


@dataclass(frozen=True)
class Certificate:
    """What people ask about a certificate: the names it is for, and from when to when."""

    hosts: tuple[str, ...]
    not_before: datetime
    not_after: datetime


# -- The authority and the server ----------------------------------------------------------------


def make_authority(name: str, key: Path, certificate: Path, now: datetime) -> None:
    """Make the CA of the federation `name`; what is there already stays."""
    private = _tls_key(key)
    public, subject = private.public_key(), _named(f"Consilium federation {name}")
    builder = (
        _begun(subject, public, now, AUTHORITY_LASTS, by=(subject, public))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**_NO_USAGE | {"key_cert_sign": True, "crl_sign": True}), critical=True)
    )
    _write(certificate, builder.sign(private, _HASH))


def issue(
    authority: tuple[Path, Path], hosts: Sequence[str], key: Path, certificate: Path, now: datetime
) -> None:
    """Write a certificate for a server that is reached as `hosts`; its key is made if it is not there.

    `authority`: the CA's key and its certificate.
    """
    signing, issuer, public = _read_key(authority[0]), _read(authority[1]), _tls_key(key).public_key()
    names = x509.SubjectAlternativeName([_general(host) for host in hosts])
    builder = (
        _begun(_named(hosts[0]), public, now, SERVER_LASTS, by=(issuer.subject, signing.public_key()))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**_NO_USAGE | {"digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
    )
    _write(certificate, builder.sign(signing, _HASH))


def read_certificate(path: Path) -> Certificate:
    """Read a certificate's facts; SettingsError where the file is none."""
    found = _read(path)
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = ()
    hosts = tuple(str(name.value) for name in names)
    return Certificate(hosts, found.not_valid_before_utc, found.not_valid_after_utc)


def issued_by(certificate: Path, authority: Path) -> bool:
    """Say whether `authority` has signed `certificate`."""
    try:
        _read(certificate).verify_directly_issued_by(_read(authority))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def belongs(key: Path, certificate: Path) -> bool:
    """Say whether the certificate is for this private key."""
    return _read_key(key).public_key() == _read(certificate).public_key()


# -- Keys for node authentication ----------------------------------------------------------------


class NodeKey:
    """A site's private key for Flower's node authentication, at work."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.pair = key, key.public_key()
        """Both halves, as Flower's connection takes them."""
        self.public = _openssh(key.public_key())

    def sign(self, purpose: str, message: bytes) -> bytes:
        """Return the signature, ECDSA with SHA-384."""
        return self._key.sign(framed(purpose, message), ec.ECDSA(_HASH))


def node_key(path: Path) -> NodeKey:
    """Read the private key in `path`, or make one there that only its owner may read (0600)."""
    try:
        if not path.exists():
            files.create(path, _private_bytes(ec.generate_private_key(_CURVE), PrivateFormat.OpenSSH))
        found = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(path, error) from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise _unusable(path, "another kind of key")
    return NodeKey(found)


def node_verified(public: str, purpose: str, message: bytes, signature: bytes) -> bool:
    """Say whether `signature` is that of the node key `public` (OpenSSH text) on `message` for `purpose`."""
    try:
        _node_public(public).verify(signature, framed(purpose, message), ec.ECDSA(_HASH))
    except (InvalidSignature, TrustError):
        return False
    return True


def _node_public(text: str) -> ec.EllipticCurvePublicKey:
    """Read a node's public key; TrustError for any other text, a second spelling of a key included."""
    try:
        found = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        found = None
    if (
        not isinstance(found, ec.EllipticCurvePublicKey)
        or not isinstance(found.curve, ec.SECP384R1)
        or _openssh(found) != text
    ):
        raise TrustError("a site's key for node authentication must be a P-384 key as OpenSSH writes it")
    return found


def _openssh(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


# -- Parts ---------------------------------------------------------------------------------------


def _begun(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    lasts: timedelta,
    *,
    by: tuple[x509.Name, ec.EllipticCurvePublicKey],
) -> x509.CertificateBuilder:
    """Return what all certificates have; key identifiers let a verifier tell two CAs of one name apart."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by[0])
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by[1]), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # RFC 5280 allows no more


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        files.create(path, _private_bytes(ec.generate_private_key(_CURVE), PrivateFormat.PKCS8))
    return _read_key(path)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        found = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(path, error) from error
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise _unusable(path, "another kind of key")
    return found


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: not a certificate ({error}): restore it from a copy") from error


def _write(path: Path, certificate: x509.Certificate) -> None:
    files.write(path, certificate.public_bytes(Encoding.PEM), files.PUBLIC)


def _private_bytes(key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def _unusable(path: Path, why: object) -> SettingsError:
    return SettingsError(f"{path}: cannot use this key ({why}): restore it from a copy")

"""The CA, the server's certificate and node keys, held against other people's readers of them."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, sign_message, verify_signature
from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.certificates import (
    AUTHORITY_LASTS,
    SERVER_LASTS,
    NodeKey,
    belongs,
    issue,
    issued_by,
    make_authority,
    node_key,
    node_verified,
    read_certificate,
)
from protocol.errors import SettingsError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTS = ("consilium.example.org", "10.0.0.7", "::1")


class Server:
    """A CA and a server's certificate in a folder."""

    def __init__(self, folder: Path, hosts: tuple[str, ...] = HOSTS) -> None:
        self.authority = folder / "ca.key", folder / "ca.pem"
        self.key, self.certificate = folder / "server.key", folder / "server.pem"
        make_authority("brain", *self.authority, NOW)
        issue(self.authority, hosts, self.key, self.certificate, NOW)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return Server(tmp_path_factory.mktemp("brain"))


def accepted(authority: Path, certificate: Path, host: str, when: datetime = NOW) -> bool:
    """Ask the verifier of `cryptography`, which holds certificates to the web's rules (RFC 5280, CA/B)."""
    try:
        name: x509.GeneralName = x509.IPAddress(ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    store = Store([x509.load_pem_x509_certificate(authority.read_bytes())])
    verifier = PolicyBuilder().store(store).time(when).build_server_verifier(name)
    try:
        verifier.verify(x509.load_pem_x509_certificate(certificate.read_bytes()), [])
    except VerificationError:
        return False
    return True


@pytest.mark.parametrize("host", HOSTS)
def test_a_server_is_accepted_under_each_of_its_names(server: Server, host: str) -> None:
    assert accepted(server.authority[1], server.certificate, host)


@pytest.mark.parametrize("host", ["example.org", "www.consilium.example.org", "10.0.0.8"])
def test_and_under_no_other(server: Server, host: str) -> None:
    assert not accepted(server.authority[1], server.certificate, host)


@pytest.mark.parametrize(
    ("after", "valid"),
    [
        (-timedelta(hours=2), False),
        (-timedelta(minutes=59), True),
        (SERVER_LASTS - timedelta(1), True),
        (SERVER_LASTS + timedelta(1), False),
    ],
)
def test_it_is_valid_for_a_year_and_an_hour_before(server: Server, after: timedelta, *, valid: bool) -> None:
    assert accepted(server.authority[1], server.certificate, HOSTS[0], NOW + after) is valid


def test_another_ca_of_the_same_name_has_signed_nothing(server: Server, tmp_path: Path) -> None:
    other = Server(tmp_path)
    assert not accepted(other.authority[1], server.certificate, HOSTS[0])
    assert not issued_by(server.certificate, other.authority[1])
    assert issued_by(server.certificate, server.authority[1])


def test_a_server_s_certificate_signs_no_other(server: Server, tmp_path: Path) -> None:
    issue((server.key, server.certificate), ["evil.example"], tmp_path / "key", tmp_path / "pem", NOW)
    assert not accepted(server.authority[1], tmp_path / "pem", "evil.example")
    assert not accepted(server.certificate, tmp_path / "pem", "evil.example")


def test_its_facts_are_read_back(server: Server) -> None:
    found = read_certificate(server.certificate)
    assert found.hosts == HOSTS
    assert found.not_after == NOW + SERVER_LASTS
    authority = read_certificate(server.authority[1])
    assert (authority.hosts, authority.not_after) == ((), NOW + AUTHORITY_LASTS)


def test_a_renewed_certificate_is_for_the_same_key(tmp_path: Path) -> None:
    server = Server(tmp_path)
    before = server.certificate.read_bytes()
    issue(server.authority, ["new.example"], server.key, server.certificate, NOW + SERVER_LASTS)
    assert server.certificate.read_bytes() != before
    assert belongs(server.key, server.certificate)
    assert not belongs(server.authority[0], server.certificate)


def test_private_keys_are_for_their_owner_and_certificates_for_all(server: Server) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in server.key.parent.iterdir()}
    assert modes == {"ca.key": 0o600, "server.key": 0o600, "ca.pem": 0o644, "server.pem": 0o644}


@pytest.mark.parametrize(
    "text", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
@pytest.mark.parametrize("read", [node_key, read_certificate, lambda path: belongs(path, path)])
def test_a_damaged_file_is_said_with_its_name(
    tmp_path: Path, text: bytes, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "some.key"
    path.write_bytes(text)
    with pytest.raises(SettingsError, match=r"some\.key"):
        read(path)


# -- Node keys -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("node") / "auth.key"
    path.with_suffix(".pub").write_text(f"{node_key(path).public}\n")
    return path


def test_flower_s_own_readers_take_both_halves(node: Path) -> None:
    """`flower-supernode --auth-supernode-private-key` and `flwr supernode register`."""
    arguments = argparse.Namespace(auth_supernode_private_key=str(node), auth_supernode_public_key=None)
    pair = _try_setup_client_authentication(arguments)
    assert pair is not None
    registered = bytes_to_public_key(try_load_public_key(node.with_suffix(".pub")))
    assert registered == pair[1]
    assert verify_signature(registered, b"now", sign_message(pair[0], b"now"))


def test_a_node_key_is_made_once_and_for_its_owner(node: Path) -> None:
    assert node_key(node).public == node_key(node).public
    assert node.stat().st_mode & 0o777 == 0o600


@settings(max_examples=20)
@given(st.binary(max_size=40), st.integers(0, 300), st.integers(1, 255))
def test_a_node_s_signature_counts_for_its_message_and_purpose_alone(
    node: Path, message: bytes, place: int, flip: int
) -> None:
    key = node_key(node)
    signature = key.sign("a", message)
    assert node_verified(key.public, "a", message, signature)
    assert not node_verified(key.public, "ab", message, signature)
    assert not node_verified(key.public, "a", message + b"x", signature)
    broken = bytearray(signature)
    broken[place % len(broken)] ^= flip
    assert not node_verified(key.public, "a", message, bytes(broken))


def _spelled(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    "public",
    [
        "",
        "ecdsa-sha2-nistp384 AAAA",
        _spelled(ec.generate_private_key(ec.SECP256R1())),
        _spelled(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["nothing", "cut", "P-256", "Ed25519"],
)
def test_what_is_no_node_key_has_signed_nothing(node: Path, public: str) -> None:
    assert not node_verified(public, "a", b"", node_key(node).sign("a", b""))


@pytest.mark.parametrize("spelling", ["{} a comment", "{}\n", " {}"])
def test_a_node_key_has_one_spelling(node: Path, spelling: str) -> None:
    """Else the same key could be registered twice under two names."""
    key: NodeKey = node_key(node)
    assert not node_verified(spelling.format(key.public), "a", b"", key.sign("a", b""))

"""Where the coordinator keeps what: one folder, for all runs of one federation.

    HOME/
      federation.yaml       name, server, contacts, sites; edited by people
      federation.json       public keys of the coordinator and of every site (`privacy.keys`)
      coordinator.key       signs memberships, recipes and witnessed heads; never leaves
      witness.json          where every site's books stand, as last seen (`server.witness`)
      ca/ca.key             signs the server's certificate; needed on this machine only to renew it
      ca/ca.pem             what sites trust
      tls/server.key        the server's private key
      tls/server.pem        its certificate
      sites/NAME/kit.zip            what the site gets from us to begin with
      sites/NAME/request.json       what it sent back: its public keys
      sites/NAME/membership.json    what we signed
      sites/NAME/auth.pub           its key for Flower's node authentication
      revoked.json          who was put out of the federation, and when
      state/                Flower's database and the secret of its executors
      runs/                 a folder a run
      logs/

Private keys and secrets are readable by their owner alone (0600).
"""

from dataclasses import dataclass
from pathlib import Path

from privacy.keys import COORDINATOR_KEY, FEDERATION


@dataclass(frozen=True)
class SiteFolder:
    """What the coordinator keeps of one site."""

    folder: Path

    @property
    def kit(self) -> Path:
        """The startup kit, as it was sent."""
        return self.folder / "kit.zip"

    @property
    def request(self) -> Path:
        """The request that was signed."""
        return self.folder / "request.json"

    @property
    def membership(self) -> Path:
        """The newest membership."""
        return self.folder / "membership.json"

    @property
    def auth_public(self) -> Path:
        """The public key that `flwr supernode register` takes."""
        return self.folder / "auth.pub"


@dataclass(frozen=True)
class CoordinatorHome:
    """The paths in `folder`, see the module."""

    folder: Path

    @property
    def federation(self) -> Path:
        """What people write about the federation."""
        return self.folder / "federation.yaml"

    @property
    def pins(self) -> Path:
        """Public keys of all."""
        return self.folder / FEDERATION

    @property
    def key(self) -> Path:
        """The coordinator's signing key."""
        return self.folder / COORDINATOR_KEY

    @property
    def ca_key(self) -> Path:
        """Private key of the federation's own certificate authority."""
        return self.folder / "ca" / "ca.key"

    @property
    def ca(self) -> Path:
        """Its certificate."""
        return self.folder / "ca" / "ca.pem"

    @property
    def server_key(self) -> Path:
        """Private key of the server's certificate."""
        return self.folder / "tls" / "server.key"

    @property
    def server_certificate(self) -> Path:
        """The server's certificate."""
        return self.folder / "tls" / "server.pem"

    @property
    def revoked(self) -> Path:
        """Sites that are in the federation no longer."""
        return self.folder / "revoked.json"

    @property
    def sites(self) -> Path:
        """A folder a site."""
        return self.folder / "sites"

    @property
    def state(self) -> Path:
        """What Flower's processes keep."""
        return self.folder / "state"

    @property
    def database(self) -> Path:
        """The SuperLink's database."""
        return self.state / "superlink.db"

    @property
    def pieces(self) -> Path:
        """Pieces of messages under way, which the SuperLink keeps beside its database."""
        return self.state / "pieces"

    @property
    def superexec_secret(self) -> Path:
        """The secret by which the SuperLink knows its executors."""
        return self.state / "superexec.secret"

    @property
    def runs(self) -> Path:
        """A folder a run."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """Logs of the processes."""
        return self.folder / "logs"

    def of(self, site: str) -> SiteFolder:
        """Return the folder of one site."""
        return SiteFolder(self.sites / site)

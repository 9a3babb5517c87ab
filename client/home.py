"""Where a site keeps what: one folder for one federation.

    HOME/
      site.yaml             facts of this machine: server, data, device, proxy; edited by people
      policy.yaml           what this hospital allows (`client.policy`)
      ca.pem                whom to trust as server; from the startup kit
      federation.json       public keys of the coordinator and of the sites (`privacy.keys`)
      site.key              signs replies and the audit log; made here, never leaves
      auth.key, auth.pub    the key by which Flower's server knows this site; made here, the private
                            half never leaves
      request.json          our public keys, for the coordinator to sign
      membership.json       the coordinator's signature under them
      cohorts/NAME/         scans that were made ready for training (`imaging.ingest`)
      pseudonyms.key        what patients' stand-ins are made with; never leaves
      ingest.yaml           how scans are made ready; edited by people, may be absent
      blackenings.yaml      where devices burn text into images; edited by people, may be absent
      pacs.yaml             the hospital's image archives (`imaging.pacs`); edited by people, may be absent
      approved.json         code that this hospital has allowed besides its own installation
      state/                memory between rounds; `arrays` in it holds cases that are mapped, `pieces` a
                            model that was scored: both may be removed, and need not be backed up
      ledger/               what patients have paid, and the audit log
      logs/

Private keys are readable by their owner alone (0600). Back up all of it: see the decision on the ledger.
"""

from dataclasses import dataclass
from pathlib import Path

from privacy.keys import FEDERATION, SITE_KEY

HOSPITAL = Path(__file__).parent / "policies" / "hospital.yaml"
"""The policy that a hospital begins with (`client.policy`)."""


@dataclass(frozen=True)
class SiteHome:
    """The paths in `folder`, see the module."""

    folder: Path

    @property
    def settings(self) -> Path:
        """Facts of this machine."""
        return self.folder / "site.yaml"

    @property
    def policy(self) -> Path:
        """What the hospital allows."""
        return self.folder / "policy.yaml"

    @property
    def ca(self) -> Path:
        """Certificate of the federation's own authority."""
        return self.folder / "ca.pem"

    @property
    def pins(self) -> Path:
        """Public keys of the coordinator and of the sites."""
        return self.folder / FEDERATION

    @property
    def key(self) -> Path:
        """The site's signing key."""
        return self.folder / SITE_KEY

    @property
    def auth_key(self) -> Path:
        """Private key for Flower's node authentication."""
        return self.folder / "auth.key"

    @property
    def auth_public(self) -> Path:
        """Its public half."""
        return self.folder / "auth.pub"

    @property
    def request(self) -> Path:
        """What the coordinator is asked to sign."""
        return self.folder / "request.json"

    @property
    def membership(self) -> Path:
        """What the coordinator has signed."""
        return self.folder / "membership.json"

    @property
    def approved(self) -> Path:
        """Hashes of further code that may run here."""
        return self.folder / "approved.json"

    @property
    def cohorts(self) -> Path:
        """Cohorts that were made of the hospital's scans."""
        return self.folder / "cohorts"

    @property
    def pseudonyms(self) -> Path:
        """Key of the patients' stand-ins."""
        return self.folder / "pseudonyms.key"

    @property
    def ingest(self) -> Path:
        """How scans are made ready."""
        return self.folder / "ingest.yaml"

    @property
    def blackenings(self) -> Path:
        """Where devices burn text into images."""
        return self.folder / "blackenings.yaml"

    @property
    def pacs(self) -> Path:
        """The hospital's image archives."""
        return self.folder / "pacs.yaml"

    @property
    def state(self) -> Path:
        """Memory between rounds."""
        return self.folder / "state"

    @property
    def obstacle(self) -> Path:
        """Why the coordinator's server does not let this site in; not there while it does."""
        return self.state / "obstacle.txt"

    @property
    def ledger(self) -> Path:
        """The ledger and the audit log."""
        return self.folder / "ledger"

    @property
    def logs(self) -> Path:
        """Logs of the processes."""
        return self.folder / "logs"

    @staticmethod
    def if_there(path: Path) -> Path | None:
        """Return a path that people may have left out, or None."""
        return path if path.exists() else None

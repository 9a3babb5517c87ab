"""Facts of one site's machine; never sent anywhere.

Flower hands them to the client application as `node_config` (scalars only):

    site        the site's name in the federation
    data        folder of its data
    partitions  comma-separated parts of that folder that are this site's; empty: all of it
                (a simulation splits one folder into several sites)
    state       folder for what must survive a round: memory, the site's key
    ledger      folder of what must outlive every run: ledger and audit log; empty: `state`, as in
                a simulation, where each run has patients of its own
    device      cpu, cuda, cuda:1, ...
    threads     CPU threads for torch; 0 leaves torch's own choice
    policy      file of what this hospital allows; empty: everything, as in a simulation
    federation  file of the federation's public keys; empty where nothing is signed
    key         file of the site's signing key; empty: `site.key` in `state`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy.keys import SITE_KEY
from protocol.errors import SettingsError


@dataclass(frozen=True)
class Settings:
    """One site's machine, see the module."""

    site: str
    data: Path
    state: Path
    partitions: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 0
    policy: Path | None = None
    federation: Path | None = None
    ledger: Path | None = None
    key: Path | None = None

    @property
    def signing_key(self) -> Path:
        """File of the key that signs what this site says."""
        return self.key or self.state / SITE_KEY

    @property
    def books(self) -> Path:
        """Folder of the ledger and the audit log."""
        return self.ledger or self.state


def to_node_config(settings: Settings) -> dict[str, str | int]:
    """Write settings as Flower's scalars."""
    return {
        "site": settings.site,
        "data": str(settings.data),
        "state": str(settings.state),
        "partitions": ",".join(settings.partitions),
        "device": settings.device,
        "threads": settings.threads,
        "policy": str(settings.policy or ""),
        "federation": str(settings.federation or ""),
        "ledger": str(settings.ledger or ""),
        "key": str(settings.key or ""),
    }


def from_node_config(config: Mapping[str, object]) -> Settings:
    """Read Flower's scalars; `SettingsError` names the one that is missing."""
    missing = [key for key in ("site", "data", "state") if not config.get(key)]
    if missing:
        msg = f"node config lacks {missing}: start the site with --node-config 'site=... data=... state=...'"
        raise SettingsError(msg)
    return Settings(
        site=str(config["site"]),
        data=Path(str(config["data"])),
        state=Path(str(config["state"])),
        partitions=tuple(part for part in str(config.get("partitions", "")).split(",") if part),
        device=str(config.get("device", "cpu")),
        threads=int(str(config.get("threads", 0))),
        policy=_optional(config.get("policy")),
        federation=_optional(config.get("federation")),
        ledger=_optional(config.get("ledger")),
        key=_optional(config.get("key")),
    )


def _optional(value: object) -> Path | None:
    return Path(str(value)) if value else None

"""A coordinator that is not ours: its code never runs at a site, and its tasks are refused there."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab

from client.approved import approve
from privacy.audit import read
from protocol.bundle import bundle, bundle_hash, packed
from server.control import Control, control
from server.folders import status_of
from server.operate import local_address
from tests.deploy.federation import SITES, Federation
from tests.deploy.hostile import ANSWERS, HONEST, MARK

pytestmark = pytest.mark.deploy


def _files() -> dict[str, bytes]:
    """What is in our bundle."""
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.startswith(".info")}


def _poisoned(mark: Path) -> bytes:
    """Our bundle, but whoever imports the site's part of it leaves a file."""
    files = _files()
    files["client/app.py"] += f"\nopen({str(mark)!r}, 'w').close()\n".encode()
    return packed(files)


def _hostile() -> bytes:
    """Our bundle, but the coordinator's part of it is another."""
    files = _files()
    files["server/hostile.py"] = b"from tests.deploy.hostile import app\n"
    files["pyproject.toml"] = files["pyproject.toml"].replace(
        b"server.application:app", b"server.hostile:app"
    )
    return packed(files)


def _submit(federation: Federation, link: Control, code: bytes, run: Path) -> int:
    config = {
        "folder": str(run),
        "sites": 2,
        "tracking": "off",
        "coordinator": str(federation.coordinator.folder),
    }
    fab = Fab(hash_str=bundle_hash(code), content=code)
    return link._client.StartRun(
        StartRunRequest(fab=fab, override_config=user_config_to_proto(config))
    ).run_id


def test_other_code_is_refused_and_audited_and_runs_nowhere(federation: Federation, tmp_path: Path) -> None:
    mark = tmp_path / "imported"
    code = _poisoned(mark)
    run = federation.begin("rounds=1", going=False)
    with control(local_address(federation.coordinator), federation.coordinator.ca) as link:
        number = _submit(federation, link, code, run)
        why = federation.until(lambda: link.ended(number), "the run has ended")
        for name in SITES:
            assert f"{name}: PolicyError: the coordinator's code ({bundle_hash(code)}) is not" in why
            entry = list(read(federation.site(name).ledger))[-1]
            assert (entry["decided"], entry["asked"]["run"]) == ("refused", run.name)
            assert approve(bundle_hash(code), federation.site(name).approved)
        number = _submit(federation, link, code, run)
        assert federation.until(lambda: link.ended(number), "the approved run has ended") == "completed"
    assert status_of(run) == "finished"
    assert not mark.exists()


def test_what_no_coordinator_of_ours_asks_is_refused_and_audited_and_kills_nobody(
    federation: Federation,
) -> None:
    code = _hostile()
    run = federation.begin("rounds=1", going=False)
    workers = {name: federation.worker(name) for name in SITES}
    before = {name: len(list(read(federation.site(name).ledger))) for name in SITES}
    for name in SITES:
        approve(bundle_hash(code), federation.site(name).approved)
    with control(local_address(federation.coordinator), federation.coordinator.ca) as link:
        number = _submit(federation, link, code, run)
        assert federation.until(lambda: link.ended(number), "all is answered") == "completed"
    answers = json.loads((run / ANSWERS).read_text())
    assert len(answers) > 50
    assert [what for what, (_, said) in answers.items() if not said] == [HONEST]
    written = [entry for name in SITES for entry in list(read(federation.site(name).ledger))[before[name] :]]
    assert len(written) == len(answers)
    assert sum(entry["decided"] == "refused" for entry in written) == len(answers) - 1
    assert {name: federation.worker(name) for name in SITES} == workers
    assert not (run / MARK).exists()

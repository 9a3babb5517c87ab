"""Who watches this machine is told whether its processes run, and nothing else."""

import json
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from protocol.children import LOCK, LOOPBACK, REPORT, Kept
from protocol.claim import claim
from protocol.errors import SettingsError
from protocol.monitor import monitoring
from tests.deploy.federation import free_port


def _kept(state: Path, *found: Kept) -> None:
    (state / REPORT).write_text(json.dumps([vars(each) for each in found]))


def _get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://{LOOPBACK}:{port}{path}", trust_env=False)


def test_health_follows_the_processes(tmp_path: Path) -> None:
    port = free_port()
    with monitoring(tmp_path, port):
        assert _get(port, "/health").status_code == 503
        with claim(tmp_path / LOCK):
            _kept(tmp_path, Kept("superlink", 7, 1e9, 1), Kept("superexec", None, 1e9, 3))
            down = _get(port, "/health")
            assert (down.status_code, down.text) == (503, "not running: superexec\n")
            _kept(tmp_path, Kept("superlink", 7, 1e9, 1), Kept("superexec", 8, 1e9, 4))
            assert _get(port, "/health").text == "ok\n"
        assert _get(port, "/health").status_code == 503
        assert _get(port, "/").status_code == 404
    with pytest.raises(httpx.ConnectError):
        _get(port, "/health")


def test_metrics_are_what_prometheus_reads(tmp_path: Path) -> None:
    port = free_port()
    with monitoring(tmp_path, port), claim(tmp_path / LOCK):
        _kept(tmp_path, Kept("superlink", 7, 1e9, 1), Kept("superexec", None, 1e9, 3))
        families = text_string_to_metric_families(_get(port, "/metrics").text)
        told = {(s.name, s.labels["process"]): s.value for family in families for s in family.samples}
    assert told["consilium_process_up", "superlink"] == 1
    assert told["consilium_process_up", "superexec"] == 0
    assert told["consilium_process_starts_total", "superexec"] == 3
    assert told["consilium_process_start_time_seconds", "superlink"] == 1e9


def test_only_this_machine_is_answered() -> None:
    assert LOOPBACK == "127.0.0.1"


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    port = free_port()
    with (
        monitoring(tmp_path, port),
        pytest.raises(SettingsError, match=f"port {port}.*--monitor"),
        monitoring(tmp_path, port),
    ):
        pass

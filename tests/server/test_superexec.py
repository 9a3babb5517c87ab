"""What we change of Flower's SuperExec, and that Flower still has it where we change it."""

import inspect
import subprocess
from collections.abc import Callable
from multiprocessing import connection, forkserver, util
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.supercore.constant import ExecutorType, TaskType
from flwr.supercore.superexec.executor import ExecutionSpec
from flwr.superlink.runtime.run_serverapp import run_serverapp

from protocol import bundle as bundle_module
from protocol.bundle import bundle_hash
from protocol.errors import SettingsError
from server import application, superexec
from server.superexec import Warm, changes

WHERE, TOKEN = "127.0.0.1:25000", "a token"


class Copied:
    """What is asked of Python's fork server."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.ready: list[str] = []

    def set_forkserver_preload(self, names: list[str]) -> None:
        self.ready = names

    def Process(self, **asked: Any) -> "Copied":  # noqa: N802 - multiprocessing's name
        self.asked.append(asked)
        return self

    def start(self) -> None:
        self.asked[-1]["started"] = True


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Copied:
    found = Copied()
    monkeypatch.setattr("server.superexec.get_context", {"forkserver": found}.__getitem__)
    monkeypatch.setattr(forkserver, "ensure_running", lambda: None)
    return found


@pytest.fixture
def flowers(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The processes that are started in Flower's way."""
    found: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: found.append(words))
    return found


def _asked(code: str | None) -> ExecutionSpec:
    return ExecutionSpec(TaskType.SERVER_APP, WHERE, TOKEN, False, "ca.pem", False, 1, True, 7, code)


def test_flower_has_what_is_changed() -> None:
    (module, name, ours), _ = changes()
    asked = inspect.signature(vars(module)[name]).bind(ExecutorType.SUBPROCESS, insecure=False)
    inspect.signature(cast("Callable[..., Warm]", ours)).bind(*asked.args, **asked.kwargs)


def test_a_run_of_the_installed_code_is_a_copy_of_what_is_imported(
    copied: Copied, flowers: list[list[str]]
) -> None:
    Warm().launch(_asked(bundle_hash()))
    (asked,) = copied.asked
    assert (asked["args"], asked["daemon"], asked["started"]) == ((WHERE, TOKEN, Path("ca.pem")), True, True)
    assert application.__name__ in copied.ready
    assert not flowers


def test_no_other_account_of_the_machine_reaches_what_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does has it run what they send, and a name that is no file's has no owner."""
    monkeypatch.setattr(util, "abstract_sockets_supported", True)
    for module, name, value in changes():
        assert name in vars(module)
        monkeypatch.setattr(module, name, value)
    assert vars(util)["abstract_sockets_supported"] is False
    folder = Path(vars(connection)["arbitrary_address"]("AF_UNIX")).parent
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("code", [None, "", "0" * 64])
def test_a_run_of_other_code_is_started_as_flower_does_it(
    code: str | None, copied: Copied, flowers: list[list[str]]
) -> None:
    Warm().launch(_asked(code))
    assert not copied.asked
    ((command, *words),) = flowers
    assert command == "flwr-serverapp"
    assert TOKEN in words


@pytest.mark.parametrize("change", ["another version", "half a version"])
def test_a_run_of_code_that_is_installed_no_more_is_started_as_flower_does_it(
    copied: Copied, flowers: list[list[str]], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Of two versions in one process none was ever tested."""
    warm, imported = Warm(), bundle_hash()

    def changed() -> str:
        if change == "half a version":
            raise SettingsError("not a whole installation")
        return "0" * 64

    monkeypatch.setattr(superexec, "bundle_hash", changed)
    warm.launch(_asked(imported))
    assert not copied.asked
    assert len(flowers) == 1


def test_what_is_installed_is_looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    before, files = superexec.installed(), bundle_module._files()
    with monkeypatch.context() as another:
        another.setattr(bundle_module, "_files", lambda: dict(list(files.items())[1:]))
        assert superexec.installed() not in {before, ""}
    assert superexec.installed() == before


def test_the_copy_is_flowers_own_server_application(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[inspect.BoundArguments] = []
    signature = inspect.signature(run_serverapp)
    monkeypatch.setattr(application, "die_with", lambda parent: None)
    monkeypatch.setattr(
        application, "run_serverapp", lambda *given, **named: asked.append(signature.bind(*given, **named))
    )
    ca = tmp_path / "ca.pem"
    ca.write_bytes(b"the authority's")
    application.serve(WHERE, TOKEN, ca)
    (found,) = asked
    told = found.arguments
    assert (told["runtime_api_address"], told["token"], told["certificates"]) == (
        WHERE,
        TOKEN,
        ca.read_bytes(),
    )
    assert told["insecure"] is False

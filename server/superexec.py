"""Flower's SuperExec, which starts each run's server application: here, one that has been imported already.

Torch, Flower and what stands on them take seconds to import. So the installed code is imported once, in a
process that is copied for each run (Python's fork server). That is right for a run of the installed code
alone: one that comes with other code is unpacked and started as Flower does it. So is every run once another
version has been installed: what a copy had not imported yet would be the new one's.

    python -m server.superexec ARGUMENT...      as `flower-superexec` takes them
"""

from multiprocessing import forkserver, get_context, util
from pathlib import Path
from types import ModuleType

from flwr.supercore.cli import flower_superexec
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

from protocol.bundle import bundle, bundle_hash
from protocol.errors import SettingsError

READY = ["flwr.supercore.cli", "server.application"]
"""What is imported before there is a run: the application, and what this module imports, for its copies."""


class Warm(SubprocessExecutor):
    """Starts what Flower asks for, and our server application from where it is imported already."""

    def __init__(self) -> None:
        self._imported = bundle_hash()
        self._processes = get_context("forkserver")
        self._processes.set_forkserver_preload(READY)
        forkserver.ensure_running()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start a process."""
        if spec.root_certificates_path is None or not spec.fab_hash == self._imported == installed():
            return super().launch(spec)
        about = (spec.runtime_api_address, spec.token, Path(spec.root_certificates_path))
        # A daemon: when this process is asked to end, so is it.
        self._processes.Process(target=_serve, args=about, daemon=True).start()
        return LaunchResult.accepted()


def installed() -> str:
    """Return the SHA-256 of the bundle of what is installed now; "" while it is being changed."""
    bundle.cache_clear()
    try:
        return bundle_hash()
    except SettingsError:
        return ""


def _serve(address: str, token: str, ca: Path) -> None:
    from server.application import serve  # noqa: PLC0415 - its imports belong to the process that is copied

    serve(address, token, ca)


def changes() -> list[tuple[ModuleType, str, object]]:
    """Return what is changed: where, which name, and its new value."""
    return [
        (run_superexec, "get_executor", warm),
        # Before Python 3.11.1 the fork server's socket was no file, and any account of the machine could give
        # it what to run.
        (util, "abstract_sockets_supported", False),
    ]


def warm(*_: object, **__: object) -> Warm:
    """Return our way of starting processes, whatever Flower's arguments ask for."""
    return Warm()


def main() -> None:
    """Run the SuperExec."""
    for module, name, value in changes():
        setattr(module, name, value)
    flower_superexec()


if __name__ == "__main__":
    main()

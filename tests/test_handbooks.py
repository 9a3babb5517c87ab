"""Both handbooks, walked through as they are printed: a coordinator, two hospitals, mail and telephone."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consilium import cli
from protocol.errors import SettingsError
from sim.phantom import write_phantom

ROOT = Path(__file__).parent.parent
COORDINATOR, SITE = (ROOT / "deploy" / f"{who}-handbook.md" for who in ("coordinator", "site"))
FINGERPRINT = re.compile(r"\b(?:[A-Z2-7]{4}-){7}[A-Z2-7]{4}\b")

UNREACHED = "DNS|server"
"""The handbook's coordinator is an example, which nobody reaches."""


def commands(handbook: Path, section: str) -> list[str]:
    """Return what the section tells one to type, in order."""
    text = handbook.read_text().split(f"\n## {section}")[1].split("\n## ")[0]
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


class Desk:
    """A person before a machine, in the folder that the handbook had made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        folder.mkdir()
        (folder / "recipes").symlink_to(ROOT / "recipes")

    def types(self, command: str, heard: str = "", *, finding: str = "") -> str:
        """Type a command, and what was heard on the telephone when asked; return what is on the screen.

        `finding`: what a doctor is expected to fail at, and nothing else.
        """
        self._monkeypatch.chdir(self.folder)
        environment = {"CONSILIUM_HOME": str(self.folder), "COLUMNS": "200"}
        result = CliRunner().invoke(cli, shlex.split(command)[1:], env=environment, input=f"{heard}\n")
        if finding:
            assert isinstance(result.exception, SettingsError)
            assert re.search(f"checks failed: ({finding})$", str(result.exception))
        else:
            assert result.exit_code == 0, (command, result.output, result.exception)
        return result.output

    def mails(self, file: str, other: "Desk") -> None:
        """Send a copy of a file."""
        shutil.copy(self.folder / file, other.folder)


@pytest.mark.slow
def test_from_two_empty_machines_to_a_federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = Desk(tmp_path / "coordinator", monkeypatch)
    screens = [coordinator.types(command) for command in commands(COORDINATOR, "1.")]
    for name in ("north", "south"):
        said = dict(zip(("north", "south"), FINGERPRINT.findall(screens[-2]), strict=True))[name]
        _joins(coordinator, Desk(tmp_path / name, monkeypatch), name, said)
    for command in commands(COORDINATOR, "4."):
        coordinator.types(command)
    listed = coordinator.types("consilium federation list")
    assert re.search(r"north .* member until .*\n.* south .* revoked .*\n.* east .* has a kit", listed)


def _joins(coordinator: Desk, site: Desk, name: str, said: str) -> None:
    """Go through the hospital's sections 1 and 3, and the coordinator's 2."""
    write_phantom(site.folder / "phantom", sites=1, patients=3, size=16)
    (site.folder / "phantom" / "site_1").rename(site.folder / "scans")
    coordinator.mails(f"sites/{name}/kit.zip", site)
    init, first, second, doctor, reader = commands(SITE, "1.")
    site.types(init)
    _typed, back = FINGERPRINT.findall(site.types(first, said))
    site.mails("request.json", coordinator)
    (sign,) = commands(COORDINATOR, "2.")
    coordinator.types(sign, back)
    coordinator.mails(f"sites/{name}/membership.json", site)
    assert name in site.types(second)
    site.types(doctor, finding=UNREACHED)
    assert "3 patients" in site.types(reader, finding=UNREACHED)
    (explain,) = commands(SITE, "3.")
    assert "refused: recipes" in site.types(explain)

"""The project's own papers agree with each other and with what is installed."""

import re
import tomllib
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = set(PROJECT["tool"]["importlinter"]["root_packages"])
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
WANTED = [Requirement(text) for text in PROJECT["project"]["dependencies"] + EXTRAS["dev"]]
ELSEWHERE = [Requirement(text) for name in sorted(EXTRAS.keys() - {"dev"}) for text in EXTRAS[name]]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = {canonicalize_name(name): pinned for name, _, pinned in (line.partition("==") for line in LINES)}


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_what_is_wanted_is_pinned_and_installed(wanted: Requirement) -> None:
    pinned = PINNED[canonicalize_name(wanted.name)]

    assert wanted.specifier.contains(pinned)
    assert Version(version(wanted.name)).public == pinned


@pytest.mark.parametrize("wanted", ELSEWHERE, ids=lambda wanted: wanted.name)
def test_what_only_images_and_their_tests_want_is_pinned(wanted: Requirement) -> None:
    assert wanted.specifier.contains(PINNED[canonicalize_name(wanted.name)])


def test_constraints_are_names_and_versions_only() -> None:
    """No addresses, and no local build such as `+cpu`: the file must resolve on other machines."""
    for name, pinned in PINNED.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", pinned)


def test_every_room_is_packaged_linted_and_typed() -> None:
    tool = PROJECT["tool"]
    bundled = {pattern.partition("/")[0] for pattern in tool["flwr"]["app"]["fab-include"]}

    assert set(tool["hatch"]["build"]["targets"]["wheel"]["only-include"]) >= ROOMS
    assert set(tool["basedpyright"]["include"]) >= ROOMS
    assert bundled == ROOMS - {"sim"}
    assert all((ROOT / room / "__init__.py").exists() for room in ROOMS)


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}

    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_exception_to_a_rule_has_a_reason() -> None:
    """Ruff's exceptions and ignored warnings each stand on a line with a comment, or below one."""
    text = (ROOT / "pyproject.toml").read_text()
    lint = re.search(r"^ignore = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)

    assert lint is not None
    assert all(re.fullmatch(r'  "[A-Z0-9]+", +# .+', line) for line in lint[1].splitlines())
    lines = text.splitlines()
    for before, line in pairwise(lines):
        assert not line.startswith("  'ignore:") or before.startswith("  #")


def test_the_make_verbs_explain_themselves() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)

    assert re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE) == phony.split()


def test_the_changelog_knows_the_version_or_is_about_to() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == "Unreleased" or headings[0] == PROJECT["project"]["version"]


def test_no_file_names_a_machine() -> None:
    """Paths of one machine and copies of private notes have no place in a public tree."""
    private = re.compile(r"/(?:work|home|root|Users)/\w")
    folders = [ROOT / name for name in (*ROOMS, "bench", "deploy", "docs", "recipes", "tests")]
    files = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    texts = [path for path in files if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt"}]

    assert [path for path in texts if private.search(path.read_text(encoding="utf-8"))] == []

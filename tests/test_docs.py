"""What the documents show is true: commands parse, recipes load, snippets run, links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from client.policy import parse_policy
from consilium import cli
from protocol.recipe import load_recipe
from sim.cli import CATALOGUES

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS += sorted((ROOT / "deploy").glob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))


def _blocks(document: Path, *languages: str) -> Iterator[tuple[str, str]]:
    for language, text in FENCE.findall(document.read_text()):
        if language in languages:
            yield language, text


def _commands(program: str) -> list[list[str]]:
    lines = [
        line
        for document in DOCUMENTS
        for _, text in _blocks(document, "console", "sh")
        for line in text.splitlines()
    ]
    return [
        shlex.split(re.split(r" 2> | \|\| ", line)[0])[1:] for line in lines if line.startswith(f"{program} ")
    ]


def test_every_make_verb_exists() -> None:
    verbs = (ROOT / "Makefile").read_text().split(".PHONY: ")[1].splitlines()[0].split()
    quoted = [verb for document in DOCUMENTS for verb in re.findall(r"`make ([\w-]+)`", document.read_text())]

    assert {verb for verb, *_ in _commands("make")} | set(quoted) <= set(verbs)


@pytest.mark.parametrize("command", _commands("consilium"), ids=" ".join)
def test_every_command_parses(command: list[str]) -> None:
    """Down to its options; nothing is run."""
    here, words = typer.main.get_command(cli), list(command)
    while isinstance(here, click.Group):
        here = here.commands[words.pop(0)]

    here.make_context("consilium", words)


RUNS = [command for command in _commands("consilium") if command[:2] == ["sim", "run"]]
RIGHT = [command for command in RUNS if not any("epsilom" in word for word in command)]


@pytest.mark.parametrize("command", RIGHT, ids=" ".join)
def test_every_recipe_loads_with_the_overrides_shown(command: list[str]) -> None:
    overrides = [word for word in command if "=" in word]

    load_recipe(ROOT / command[2], overrides, CATALOGUES)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_is_in_the_readme(recipe: Path) -> None:
    assert load_recipe(recipe, (), CATALOGUES).name == recipe.stem
    assert f"`{recipe.stem}`" in (ROOT / "README.md").read_text()


def test_the_policy_that_the_hospital_s_page_shows_is_one() -> None:
    (text,) = (text for _, text in _blocks(ROOT / "docs/policy.md", "yaml"))

    assert parse_policy(text).leaves.metrics == ("*/dice",)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_there(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text())

    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize(
    "document", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda path: path.name
)
def test_snippets_of_decisions_run(document: Path) -> None:
    for _, text in _blocks(document, "python"):
        exec(compile(text, document.name, "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_from_top_to_bottom(tutorial: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    names: dict[str, object] = {}
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        for language, text in _blocks(tutorial, "sh", "python"):
            if language == "sh":
                subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True, env=environment)
            else:
                exec(compile(text, tutorial.name, "exec"), names)
    finally:
        os.chdir(before)

"""The door for YAML that somebody else wrote.

A recipe comes over the network and a settings file from a person in a hurry. Before any
loader builds objects from such text, this door looks at it as a stream of events (never
recursively, never whole) and lets through only what data needs: one document of
mappings with text keys, lists and scalars, shallow and small. It refuses

    tags        `!!python/object`, `!!binary`: the way to construct things
    aliases     `*a`: the way to make ten lines expand to gigabytes
    `<<`        YAML's merge: the way to set a key that is not where a reader looks
    `${...}`    OmegaConf's interpolation: the way to read the environment
    `???`       OmegaConf's "missing": a hole is not a value
    places      absolute paths and `..`: a recipe names nothing outside a site's folder
"""

import re
from typing import Any

import yaml

from protocol.errors import RecipeError

MOST_BYTES = 256 * 1024
DEEPEST = 12

_REFUSED = (
    (re.compile(r"\$\{"), "interpolation '${...}' is not allowed: write the value itself"),
    (re.compile(r"^\\*\?\?\?$"), "'???' is not a value: write one, or leave the key out"),
    (re.compile(r"^(/|~|\\|[A-Za-z]:[\\/])"), "a path on some machine belongs in the settings, not here"),
    (re.compile(r"(^|[/\\])\.\.($|[/\\])"), "'..' leaves the site's folder: name what is inside it"),
)


def guard(text: str, where: str, path: str = "") -> None:
    """Raise RecipeError unless `text` is one small, shallow document of plain values.

    `where` names the text in a message; `path` is the key whose value it is, if it is one,
    and counts as depth: what an override adds must still fit into the recipe's own text.
    """
    if len(text) > MOST_BYTES:
        raise RecipeError(f"{where}: longer than {MOST_BYTES // 1024} KiB; a recipe is a page of text")
    try:
        _guard_events(text, where, depth=path.count(".") + 1 if path else 0)
        _guard_node(yaml.compose(text, Loader=yaml.CSafeLoader), path, where)
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{where}: not readable as YAML: {_one_line(error)}") from error


def _guard_events(text: str, where: str, depth: int) -> None:
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RecipeError(f"{where}, line {line}: nested more than {DEEPEST} deep")
        if getattr(event, "anchor", None):
            raise RecipeError(f"{where}, line {line}: no anchors and aliases here: write the value out")
        if tag := getattr(event, "tag", None):
            raise RecipeError(f"{where}, line {line}: tag '{tag}' is not allowed: write a plain value")


def _guard_node(node: yaml.Node | None, path: str, where: str) -> None:
    if isinstance(node, yaml.ScalarNode):
        guard_text(node.value, path or where)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _guard_node(child, f"{path}[{index}]", where)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{path or where}: a key must be a word, found a list or mapping")
            if key.tag == "tag:yaml.org,2002:merge":
                raise RecipeError(f"{path or where}: no merging with '<<' here: write the keys out")
            _guard_node(key, path, where)
            _guard_node(child, join(path, key.value), where)


def guard_text(text: str, path: str) -> None:
    """Raise RecipeError where a string is more than data."""
    for pattern, reason in _REFUSED:
        if pattern.search(text):
            raise RecipeError(f"{path}: found {text[:60]!r}; {reason}")


def join(path: str, key: Any) -> str:
    """`a.b` and `c` make `a.b.c`; the root's path is empty."""
    return f"{path}.{key}" if path else str(key)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

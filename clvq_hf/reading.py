"""Reading what others wrote: JSON, JSON lines, YAML and file names, with suspicion."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

MAX_YAML_NODES = 100_000


def read_json(file: Path, fields: Mapping[str, type] | None = None, remedy: str = "") -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Args:
        file (`Path`): The file.
        fields (`Mapping[str, type]`, *optional*): Fields that it must have, and of what type.
        remedy (`str`): What to do if it is damaged, in sentences.

    Raises:
        ValueError: If it is damaged or contains something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}. {remedy}".strip()) from error
    return check_object(content, file, fields, remedy)


def read_json_lines(file: Path) -> dict[str, dict[str, Any]]:
    """Read a file with a JSON object on each line, by the names of the lines: "line 3 of cells.jsonl".

    Raises:
        ValueError: If a line is damaged; the message contains its name.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        where = f"line {number} of {file}"
        try:
            content = json.loads(line) if line else None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is damaged: {error}.") from error
        if line:
            rows[where] = check_object(content, where)
    return rows


def check_object(
    content: Any, where: Path | str, fields: Mapping[str, type] | None = None, remedy: str = ""
) -> dict[str, Any]:
    """Check what was read as JSON from `where`, as [`read_json`] does.

    Raises:
        ValueError: If it is no object, or lacks a field.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{where} is damaged: it contains no JSON object. {remedy}".strip())
    for name, kind in (fields or {}).items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{where} is damaged: its {name} is no {kind.__name__}. {remedy}".strip())
    return content


def read_yaml(text: str, source: str | Path) -> Any:
    """Read a YAML document: what `yaml.safe_load` gives, but nothing that grows on the way.

    Args:
        text (`str`): The document.
        source (`str` or `Path`): Its file, for messages.

    Raises:
        ValueError: If it is no YAML, or has more than 100,000 values once its aliases are filled in: a few lines of
            aliases of aliases stand for more values than any machine holds.
    """
    import yaml  # at use: an optional package

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _count_nodes(node, {}) > MAX_YAML_NODES:
            raise ValueError(f"it has more than {MAX_YAML_NODES:,} values")
        return loader.construct_document(node)
    # Of numbers and dates that are none, such as 2026-99-99, too.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{source} is no YAML: {error}.") from error


def _count_nodes(node: Any, known: dict[int, int]) -> int:
    """Values of a YAML node with aliases filled in; more than are allowed if it contains itself."""
    if id(node) not in known:
        known[id(node)] = MAX_YAML_NODES + 1  # what an alias to an enclosing node finds
        parts = node.value if isinstance(node.value, list) else []
        parts = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_count_nodes(part, known) for part in parts)
    return known[id(node)]


def check_file_names(names: list[Any], source: Path) -> None:
    """Refuse file names, read from the file `source`, that lead out of its folder.

    Raises:
        ValueError: If a name does; the message contains the first.
    """
    for name in names:
        if not isinstance(name, str) or name != PurePath(name).name or name in ("", ".", ".."):
            raise ValueError(f"{source} names the file {name!r}, which is not in its folder: this is refused.")


__all__ = ["check_file_names", "check_object", "read_json", "read_json_lines", "read_yaml"]

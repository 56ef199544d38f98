"""Read and write configurations: YAML file + dotted overrides -> a task's schema, all problems reported at once.

Paths in a YAML file are relative to that file; paths given on the command line are relative to the working directory.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from torchkit.config.attack import AttackConfig
from torchkit.config.client import ClientConfig
from torchkit.config.recogniser import RecogniserConfig
from torchkit.config.schema import Config
from torchkit.util.files import atomic_write_text
from torchkit.util.settings import PathMark

SCHEMAS: dict[str, type[Config]] = {
    "client": ClientConfig,
    "server": RecogniserConfig,
    "attack": AttackConfig,
}
"""TASK -> what its configuration holds."""
DEFAULT_TASK = "client"

RETIRED = {
    "WORLD_SIZE": "processes are described by torchrun",
    "RANK": "processes are described by torchrun",
    "LOCAL_RANK": "processes are described by torchrun",
    "DIST_BACKEND": "the backend follows from the device",
    "DIST_URL": "processes are described by torchrun",
    "TEACHER_CACHE": "the recogniser embeds each clear image as it comes: cameras make new images each time",
}
"""Keys without effect in this toolkit, and why."""
RENAMED = {"CLIENT.PICTURE_QUALITY": "CLIENT.IMAGE_QUALITY"}
"""Old name of a key -> the present one."""


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read and check an experiment.

    Args:
        path: YAML file.
        overrides: `KEY=value` or `GROUP.KEY=value`, the value in YAML syntax; `DATASETS.0.batch_size=32` reaches
            into the list.

    Raises:
        FileNotFoundError: no such file.
        ValueError: everything that is wrong, a line each.
    """
    if not path.is_file():
        raise FileNotFoundError(f"configuration not found: {path}; give a YAML file with --config")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(values).__name__}")
    problems = [problem for text in overrides or [] if (problem := _override(values, text))]
    return _checked(values, path, problems)


def _override(values: dict[str, Any], text: str) -> str | None:
    """Put one `KEY=value` into `values`; returns a message if something is wrong with it."""
    key, equals, raw = text.partition("=")
    if not equals or not key:
        return f"override {text!r}: expected KEY=value, e.g. NUM_EPOCH=3 or SERVER.NAME=ir_50"
    *groups, last = key.split(".")
    node: Any = values
    try:
        for name in groups:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
        value = _from_here(key, yaml.safe_load(raw))
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
        return f"override {text!r}: {str(error).splitlines()[0]}"
    return None


def _from_here(key: str, value: Any) -> Any:
    """Resolve the paths in the `value` of `key`, if any, against the working directory; an empty one stays empty."""
    if isinstance(value, dict):
        return {name: _from_here(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, str) and value and _is_path(key):
        return str(Path(value).expanduser().absolute())
    return value


def _is_path(key: str) -> bool:
    """Whether the schema of a task has a path under this dotted key."""
    fields = (_fields_beside(schema, key.split(".")) for schema in SCHEMAS.values())
    return any(_holds_path(known[key.rpartition(".")[2]]) for known in fields if key.rpartition(".")[2] in known)


def _holds_path(field: FieldInfo) -> bool:
    return PathMark in field.metadata or any(
        PathMark in getattr(argument, "__metadata__", ()) for argument in get_args(field.annotation)
    )


def _fields_beside(schema: type, loc: Sequence[int | str]) -> dict[str, FieldInfo]:
    """The fields, as the YAML file spells them, of the group that holds the last part of `loc`, if any."""
    group: type | None = schema
    for part in loc[:-1]:
        if group is not None and not str(part).isdigit():
            field = fields_of(group).get(str(part))
            group = None if field is None else group_in(field.annotation)
    return {} if group is None else fields_of(group)


def fields_of(group: type) -> dict[str, FieldInfo]:
    """The fields of a group or a component's settings, as the YAML file spells them."""
    fields: dict[str, FieldInfo] = group.__pydantic_fields__  # type: ignore[attr-defined]
    return {field.alias or name: field for name, field in fields.items()}


def group_in(annotation: Any) -> type | None:
    """The group that a field holds, or a list of, if it does."""
    if hasattr(annotation, "__pydantic_fields__"):
        return annotation
    return next((group for argument in get_args(annotation) if (group := group_in(argument))), None)


def _checked(values: dict[str, Any], path: Path, problems: list[str]) -> Config:
    task = values.get("TASK", DEFAULT_TASK)
    if task not in SCHEMAS:
        problems = [*problems, f"TASK = {task!r}: allowed are {', '.join(SCHEMAS)}"]
        task = DEFAULT_TASK
        values = {**values, "TASK": task}
    schema = SCHEMAS[task]
    try:
        config = schema.model_validate(values, context={"base": path.parent.resolve()}, by_alias=True, by_name=False)
    except ValidationError as error:
        items = error.errors()
        causes = [item for item in items if not (item["type"] == "too_short" and _has_inner(item, items))]
        problems += [_explain(item, task) for item in causes]
    if problems:
        raise ValueError(f"{path} has {len(problems)} problem(s):\n" + "\n".join(f"  - {p}" for p in problems))
    return config


def _has_inner(item: Any, items: list[Any]) -> bool:
    """Whether an entry of the list at `item` is wrong itself, so that the list only looks too short."""
    depth = len(item["loc"])
    return any(len(other["loc"]) > depth and other["loc"][:depth] == item["loc"] for other in items)


def _explain(item: Any, task: str) -> str:
    """Describe one pydantic error in terms of the file: key, value, what is allowed."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return _explain_unknown(item["loc"], task)
    if item["type"] == "missing":
        return f"{key} is missing; train.yaml shows it with its meaning"
    message = item["msg"].removeprefix("Value error, ").replace("tuple", "list")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {item['input']!r}: {message[0].lower()}{message[1:]}"


def _explain_unknown(loc: tuple[int | str, ...], task: str) -> str:
    key, name = ".".join(map(str, loc)), str(loc[-1])
    if key in RETIRED:
        return f"{key} is no longer a setting: {RETIRED[key]}; remove it"
    if key in RENAMED:
        return f"{key} is now called {RENAMED[key]}"
    readers = [other for other, schema in SCHEMAS.items() if name in _fields_beside(schema, loc)]
    if readers:
        return f"{key} is not read by TASK: {task}, only by TASK: {', '.join(readers)}; remove it"
    known = _fields_beside(SCHEMAS[task], loc)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"unknown key {key}; {hint}"


def as_dict(config: Config) -> dict[str, Any]:
    """Return the configuration in YAML's own types."""
    return config.model_dump(mode="json", by_alias=True)


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration, which --config accepts again."""
    atomic_write_text(path, yaml.safe_dump(as_dict(config), sort_keys=False))

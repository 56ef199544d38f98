"""Turn a component's settings into a group of configuration keys, checked where they are declared.

Settings are frozen and are defined beside the component that reads them. A `Group` spells its fields as the YAML file
does. A pydantic dataclass with `UPPER_CASE_KEYS` has lower-case fields in Python, and upper-case keys in the file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

UPPER_CASE_KEYS = ConfigDict(extra="forbid", alias_generator=str.upper, populate_by_name=True)


class PathMark:
    """Marks fields that hold paths, so that overrides can be resolved against the working directory."""


ConfigPath = Annotated[Path, PathMark]


class Group(BaseModel):
    """A group of keys: frozen, without unknown keys. Text that is a number is accepted, since YAML reads 1e-3 as text.

    Defaults are validated too, since paths among them are relative to the file: to the folder `base` in the context of
    the validation.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=False, validate_default=True, revalidate_instances="always"
    )

    @field_validator("*", mode="after")
    @classmethod
    def _resolve_paths(cls, value: Any, info: ValidationInfo) -> Any:
        base = (info.context or {}).get("base")
        return (base / value.expanduser()).resolve() if isinstance(value, Path) and base is not None else value

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        """Read an empty string as None, as the published file means it."""
        return None if value == "" else value


def one_of(registry: Collection[str]) -> AfterValidator:
    """Check that a name is in `registry` as it is when the check runs, with entries that were added later."""

    def check(name: str) -> str:
        if name not in registry:
            raise PydanticCustomError("not_one_of", "allowed are {names}", {"names": ", ".join(registry)})
        return name

    return AfterValidator(check)

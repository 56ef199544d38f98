"""How a component's settings become a group of keys of the configuration, checked where they are declared.

Settings are frozen and lie beside the component that reads them. A `Group` spells its fields as the YAML file does. A
pydantic dataclass with `UPPER_CASE_KEYS` has lower-case fields in Python and the same in upper case in the file.
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
    """A group of keys: frozen, no unknown keys. Text that is a number will do, for YAML reads 1e-3 as text.

    Defaults are validated anew with each file, since paths among them are relative to it: to the folder `base` of the
    validation's context.
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
        """An empty string is how the published file says "none"."""
        return None if value == "" else value


def one_of(registry: Collection[str]) -> AfterValidator:
    """Check that a name is in `registry`, which is read when the check runs: what was added later counts."""

    def check(name: str) -> str:
        if name not in registry:
            raise PydanticCustomError("not_one_of", "allowed are {names}", {"names": ", ".join(registry)})
        return name

    return AfterValidator(check)

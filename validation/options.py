"""The options that commands of validation share; their defaults are those of `Settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchkit.data.camera import CAMERAS
from torchkit.obfuscation import KINDS
from torchkit.util.cli import CommandParser, integer_from
from validation.config import Settings
from validation.measure.conditions import CONDITIONS

OPTIONS: dict[str, dict[str, Any]] = {
    "backbone-resume": {"type": Path, "metavar": "FILE", "help": "client file"},
    "data-root": {"type": Path, "metavar": "DIR", "help": "folder with the validation sets"},
    "datasets": {"nargs": "+", "metavar": "NAME", "help": "validation sets"},
    "obfuscations": {"nargs": "+", "choices": KINDS, "help": "kinds of obfuscation"},
    "conditions": {"nargs": "+", "choices": CONDITIONS, "help": "what the recogniser is given"},
    "fit-on": {
        "type": Path,
        "metavar": "INDEX_ROOT/NAME",
        "help": "training set on which conditions are fitted that need it (client_alone)",
    },
    "fit-data-root": {"type": Path, "metavar": "DIR", "help": "folder of its images; INDEX_ROOT unless given"},
    "camera": {"choices": sorted(CAMERAS), "help": "what a camera does to every image first; nothing unless given"},
    "server": {"metavar": "NAME", "help": "recogniser; as the client file says unless given"},
    "server-checkpoint": {"type": Path, "metavar": "FILE", "help": "its weights; as the client file says unless given"},
    "channel-order": {
        "choices": ["auto", "rgb", "bgr"],
        "help": "colours it is fed; as the client file says unless given",
    },
    "batch-size": {},
    "num-workers": {"type": integer_from(0), "metavar": "N", "help": "processes that obfuscate"},
    "device": {},
    "amp": {},
    "seed": {"help": "seed of the hybrid obfuscation and of the bootstrap"},
    "resamples": {"type": integer_from(0), "metavar": "N", "help": "resamples for the 95 % intervals; 0: no intervals"},
    "examples": {
        "type": integer_from(0),
        "metavar": "N",
        "help": "faces of each set that report.html shows, also clear; 0: none",
    },
    "out": {},
}


def add_options(parser: CommandParser, *names: str) -> None:
    """Add some of the options."""
    default = Settings()
    for name in names:
        parser.option(name, default=getattr(default, name.replace("-", "_")), **OPTIONS[name])

"""Settings of validation/attack_main.py: a YAML file, options, or both, with every problem told at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, Field, ValidationError

from torchkit.attack.inputs import check_observation
from torchkit.backbone import canonical_name
from torchkit.obfuscation import EVALUATION_SEED, KINDS
from torchkit.util.cli import CommandParser, integer_from
from torchkit.util.settings import ConfigPath, Group, Positive, one_of
from validation.measure.excess import Margins
from validation.measure.inversion import BUDGETS

ROOT = Path(__file__).resolve().parents[1]
AttackName = Literal["inversion", "linkage", "distillation", "attributes"]
ATTACKS: tuple[str, ...] = get_args(AttackName)
NO_JUDGE = "none"


def judge_name(name: str) -> str:
    """A recogniser's name as the registry spells it, or "none"."""
    return name if name == NO_JUDGE else canonical_name(name)


class AttackSuiteSettings(Group):
    """What is attacked, by whom, and how long."""

    client: ConfigPath
    """Client file, or published client weights."""
    faces: ConfigPath
    """Folder of aligned faces: attackers learn from one set of it and are measured on another."""
    train_set: str = "train"
    """TRAIN_SET.txt, or a folder of people."""
    held_out_set: str = "val"
    """HELD_OUT_SET.txt, or a folder of people."""
    attacks: Annotated[tuple[AttackName, ...], Field(min_length=1)] = ("inversion", "linkage")
    observations: tuple[Annotated[str, AfterValidator(check_observation)], ...] = ()
    """Of the inversion, beside those of every report."""
    budget: Annotated[str, one_of(BUDGETS)] = "small"
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (1, 2, 3)
    """One attacker each."""
    judge: Annotated[str, AfterValidator(judge_name)] = "dlib_resnet"
    """Recogniser that neither client nor server nor attackers use; none: images are compared, people are not."""
    judge_checkpoint: ConfigPath = Path("model/dlib_face_recognition_resnet_model_v1.dat")
    server: str | None = None
    """Name of the recogniser; None: as the client file says."""
    server_checkpoint: ConfigPath | None = None
    """Its weights; None: as the client file says."""
    attributes: ConfigPath | None = None
    """Labels of the faces in CelebA's form (list_attr_celeba.txt), for the attack of that name."""
    obfuscation: Annotated[str, one_of(KINDS)] = "hybrid"
    obfuscation_seed: int = EVALUATION_SEED
    margins: Margins = Margins()
    examples: Annotated[int, Field(ge=0)] = 6
    """People on the image sheet."""
    batch_size: Positive = 50
    """Images judged at once."""
    device: str = "auto"
    amp: Literal["auto", "bf16", "none"] = "auto"
    out: ConfigPath = Path("runs/attack")


def parse_arguments(doc: str | None) -> argparse.Namespace:
    """The command line; what it does not say is None."""
    parser = CommandParser(doc)
    parser.option("config", type=Path, metavar="FILE", help="YAML file with the same settings, which options override")
    parser.option("client", type=Path, metavar="FILE", help="client file")
    parser.option("faces", type=Path, metavar="DIR", help="aligned faces with the sets train and val")
    parser.option("train-set", metavar="NAME", help="people that attackers learn from; without it train")
    parser.option("held-out-set", metavar="NAME", help="people that they are measured on; without it val")
    parser.option("attacks", nargs="+", choices=ATTACKS, help="what to run; without it inversion and linkage")
    parser.option("observations", nargs="+", metavar="PARTS", help="more observations to invert, e.g. O+Z_stolen_key")
    parser.option("budget", choices=list(BUDGETS), help="of each attacker; without it small")
    parser.option("seeds", nargs="+", type=int, metavar="N", help="attackers for each observation; without it 1 2 3")
    parser.option(
        "judge", metavar="NAME", help="recogniser that judges reconstructions, or none; without it dlib_resnet"
    )
    parser.option("judge-checkpoint", type=Path, metavar="FILE", help="its weights; without it dlib's under model/")
    parser.option("server", metavar="NAME", help="recogniser of the client; without it as the client file says")
    parser.option(
        "server-checkpoint", type=Path, metavar="FILE", help="its weights; without it as the client file says"
    )
    parser.option("attributes", type=Path, metavar="FILE", help="labels in the form of CelebA's list_attr_celeba.txt")
    parser.option("obfuscation", choices=KINDS, help="kind; without it hybrid")
    parser.option("examples", type=integer_from(0), metavar="N", help="people on the image sheet; without it 6")
    parser.option("device", default=None)
    parser.option("amp", default=None)
    parser.option("out", help="folder for the results, where an interrupted run goes on; without it runs/attack")
    parser.add_traceback()
    return parser.parse_args()


def load_settings(arguments: argparse.Namespace) -> AttackSuiteSettings:
    """The settings of the YAML file, if there is one, and the options over them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: everything that is wrong, a line each.
    """
    values, base = read_yaml(arguments.config) if arguments.config else ({}, ROOT)
    for name in AttackSuiteSettings.model_fields:
        given = getattr(arguments, name, None)
        if given is not None:
            values[name] = given.absolute() if isinstance(given, Path) else given
    try:
        return AttackSuiteSettings.model_validate(values, context={"base": base})
    except ValidationError as error:
        lines = [
            f"  - {'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise ValueError("the settings have problems (--help explains them):\n" + "\n".join(lines)) from None


def read_yaml(path: Path) -> tuple[dict[str, Any], Path]:
    """The settings in a file, and the folder to which its paths are relative.

    Raises:
        FileNotFoundError, ValueError: there is none, or it holds something else than keys and values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"settings not found: {path}; give a YAML file with --config")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values, path.parent.resolve()

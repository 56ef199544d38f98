"""Typed configuration: YAML file + dotted overrides -> `Config`, all problems reported at once.

Keys are spelt as in the YAML file. Paths in a YAML file are relative to that file; paths given on the command
line are relative to the working directory.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from torchkit.backbone import NUM_TAPS, canonical_name
from torchkit.client.quantise import BITS, FLOAT_BITS
from torchkit.obfuscation import KINDS
from torchkit.util.files import atomic_write_text
from torchkit.util.pixels import INPUT_SIZE_PX


def _absolute(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    return path if base is None else (base / path.expanduser()).resolve()


def _for_all_taps(value: Any) -> Any:
    return value if isinstance(value, list | tuple | bool) else (value,) * NUM_TAPS


class _PathMark:
    """Marks fields that hold paths, so that overrides can be resolved against the working directory."""


ConfigPath = Annotated[Path, _PathMark]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0)]


class Group(BaseModel):
    """A group of keys: frozen, no unknown keys. Text that is a number will do, for YAML reads 1e-3 as text.

    Defaults are validated anew with each file, since paths among them are relative to it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=False, validate_default=True, revalidate_instances="always"
    )

    @field_validator("*", mode="after")
    @classmethod
    def _resolve_paths(cls, value: Any, info: ValidationInfo) -> Any:
        return _absolute(value, info) if isinstance(value, Path) else value

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        """An empty string is how the published file says "none"."""
        return None if value == "" else value


class DatasetConfig(Group):
    """One branch of training data, with a margin head of its own."""

    name: str
    """Of the set: INDEX_ROOT/name.txt, DATA_ROOT/name/train.rec or another form, see Data/README.md."""
    batch_size: Positive = 64
    """Images of this branch a step, of all processes together."""
    weight: Fraction = 1.0
    """Factor of this branch's margin-softmax loss."""
    scale: Annotated[float, Field(gt=0)] = 64.0
    """s of the margin softmax."""
    margin: Fraction = 0.5
    """m of the margin softmax: radians for ArcFace and CurricularFace, a cosine for CosFace, PartialFC and CIFP, both
    for AdaFace; NormFace has none."""


class ServerConfig(Group):
    """The frozen recogniser."""

    NAME: str = "ir_101"
    """A key of torchkit.server.RECOGNISERS."""
    CHECKPOINT: ConfigPath = Path("model/adaface_ir101_webface12m.ckpt")
    """Its weights."""
    CHANNEL_ORDER: Literal["auto", "rgb", "bgr"] = "auto"
    """Colour order it is fed; auto: what its weights were trained with."""

    _name = field_validator("NAME")(canonical_name)


class ClientConfig(Group):
    """The network on the phone."""

    LAYOUT: Literal["native", "published"] = "native"
    """native: features leave at the client's resolution; published: as in published weights."""
    CHANNEL_ORDER: Literal["rgb", "bgr"] = "rgb"
    """Colour order of the residual."""
    INPUT: Literal["residual", "both", "difference"] = "residual"
    """residual: clear minus obfuscated; both: that and the obfuscated image; difference: of the network's maps."""
    INTERFACE: Literal["zero", "identity", "random"] = "zero"
    """How the interfaces start: see Client.start_interfaces."""
    INIT: ConfigPath | None = None
    """Weights of the bare backbone to start from, e.g. a recogniser's."""
    FREEZE_NORMS: bool = False
    """Keep the statistics of the batch norms that INIT brings."""
    IMAGE_QUALITY: Annotated[int, Field(ge=0, le=100)] | None = None
    """Of the obfuscated image: null lossless, 0..100 lossy WebP."""


class CompensationConfig(Group):
    """How the server uses the features."""

    FORM: Literal["gate", "add", "film"] = "gate"
    """See torchkit.server.compensation."""
    WEIGHTS_PER: Literal["element", "channel"] = "element"
    """What of a map has a weight of its own."""


class CameraConfig(Group):
    """What a camera does to a training image before the client sees it; every range includes both ends."""

    SHARE: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the images; the others stay as they are."""
    BRIGHTNESS: tuple[float, float] = (0.5, 2.0)
    """Factor of the pixel values."""
    SHIFT_PX: Annotated[int, Field(ge=0, le=INPUT_SIZE_PX // 4)] = 6
    """Largest shift along either axis."""
    JPEG_QUALITY: tuple[int, int] = (20, 95)

    @field_validator("BRIGHTNESS")
    @classmethod
    def _factors(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)}: expected [low, high] with 0 < low <= high")
        return value

    @field_validator("JPEG_QUALITY")
    @classmethod
    def _qualities(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] <= value[1] <= 100:
            raise ValueError(f"{list(value)}: expected [low, high] with 0 <= low <= high <= 100")
        return value


class ObfuscationConfig(Group):
    """What training draws for each image; every range includes both ends."""

    KINDS: dict[str, float] = {"hybrid": 1.0}
    """Obfuscation -> relative frequency."""
    SIGMA_PX: tuple[float, float] = (2.0, 8.0)
    MEDIAN_KERNEL_PX: tuple[int, int] = (7, 19)
    BLOCK_PX: tuple[int, int] = (3, 11)
    GRID: tuple[int, int] = (2, 5)

    @field_validator("KINDS")
    @classmethod
    def _known(cls, kinds: dict[str, float]) -> dict[str, float]:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds or min(kinds.values()) < 0 or sum(kinds.values()) <= 0:
            raise ValueError(f"{kinds!r}: allowed are {', '.join(KINDS)} with frequencies >= 0, one of them > 0")
        return kinds

    @field_validator("SIGMA_PX", "MEDIAN_KERNEL_PX", "BLOCK_PX", "GRID")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= INPUT_SIZE_PX:
            raise ValueError(f"{list(value)}: expected [low, high] with 0 < low <= high <= {INPUT_SIZE_PX}")
        return value

    @field_validator("MEDIAN_KERNEL_PX")
    @classmethod
    def _odd(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] % 2 == 0 or value[1] % 2 == 0 or value[0] < 3:
            raise ValueError(f"{list(value)}: a median's window has an odd side of at least 3 pixels")
        return value


class ShuffleConfig(Group):
    """Block channel shuffle: the client's key."""

    TAPS: tuple[Literal[1, 2, 3, 4], ...] = (1,)
    """Taps whose features are shuffled."""
    BLOCK_PX: Positive = 14
    """Side of a block in pixels of the feature map that leaves (published layout: 28)."""
    SEED: int | None = None
    """Seed of the key; null: drawn from the operating system."""


PerTap = Annotated[tuple[float, float, float, float], BeforeValidator(_for_all_taps)]
"""A number a tap; a single one counts for all."""


class QuantizeConfig(Group):
    """Bits of the features that leave."""

    BITS: PerTap = (32, 32, 32, 32)
    """1, 2, 4, 8; 32: float32."""
    START_EPOCH: Fraction = 0.0
    """Epochs, fractions too, before which features are not quantised."""
    RAMP_EPOCHS: Fraction = 0.0
    """Epochs over which training goes from plain to quantised features."""

    @field_validator("BITS")
    @classmethod
    def _known(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not set(value) <= {*BITS, FLOAT_BITS}:
            raise ValueError(f"{list(value)}: allowed are {', '.join(map(str, BITS))} and {FLOAT_BITS} (float32) a tap")
        return value


class PruneConfig(Group):
    """What of the features does not leave."""

    CHANNELS: PerTap = (0, 0, 0, 0)
    """Share of the channels."""
    VALUES: PerTap = (0, 0, 0, 0)
    """Share of the other channels' values, smallest first."""
    START_EPOCH: Fraction = 0.0
    """Epochs, fractions too, before which everything leaves."""
    RAMP_EPOCHS: Fraction = 0.0
    """Epochs over which the pruned shares grow to their full size."""

    @field_validator("CHANNELS", "VALUES")
    @classmethod
    def _share(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= share <= 1 for share in value):
            raise ValueError(f"{list(value)}: expected shares from 0 (all is sent) to 1 (nothing is)")
        return value


class HeadConfig(Group):
    """Of the margin heads, beside each branch's scale and margin."""

    SAMPLE_RATE: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the identities that takes part in a step; null: 0.1 for PartialFC, 1 for the others."""


class DistillationConfig(Group):
    """Pulls the compensated embedding to the clear image's."""

    FORM: Literal["cosine", "mse"] = "cosine"
    """cosine: 1 - cos; mse: mean squared difference of the unit embeddings, as published."""
    WEIGHT: Fraction = 10.0
    MAP_WEIGHT: Fraction = 0.0
    """Factor of the relative error of the server's maps at the taps."""
    DDL_WEIGHT: Fraction = 0.0
    """Factor of the distribution distillation loss; its positive part needs several images of an identity a batch."""


class ValidationConfig(Group):
    """Validation between epochs."""

    EVERY_EPOCHS: Annotated[int, Field(ge=0)] = 0
    """0: none."""
    DATASETS: Annotated[tuple[str, ...], Field(min_length=1)] = ("lfw",)
    """Sets under VAL_DATA_ROOT."""
    OBFUSCATIONS: Annotated[tuple[Literal["gaussian", "median", "pixelate", "hybrid"], ...], Field(min_length=1)] = (
        "hybrid",
    )


# Keys of the published file that mean nothing here, and why.
RETIRED = {
    "WORLD_SIZE": "processes are described by torchrun",
    "RANK": "processes are described by torchrun",
    "LOCAL_RANK": "processes are described by torchrun",
    "DIST_BACKEND": "the backend follows from the device",
    "DIST_URL": "processes are described by torchrun",
}


class Config(Group):
    """An experiment. The defaults are the paper's recipe; train.yaml explains every key."""

    TASK: Literal["client", "server"] = "client"
    """What is trained: a client against a frozen recogniser, or a recogniser (BACKBONE_NAME)."""
    SEED: int = 1567
    DATA_ROOT: ConfigPath
    INDEX_ROOT: ConfigPath
    DATASETS: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)]
    VAL_DATA_ROOT: ConfigPath | None = None

    BACKBONE_RESUME: ConfigPath | None = None
    HEAD_RESUME: ConfigPath | None = None
    META_RESUME: ConfigPath | None = None

    INPUT_SIZE: tuple[int, int] = (INPUT_SIZE_PX, INPUT_SIZE_PX)
    BACKBONE_NAME: str = "MobileFaceNet"
    EMBEDDING_SIZE: Positive | None = None

    MODEL_ROOT: ConfigPath
    LOG_ROOT: ConfigPath
    LOGS: ConfigPath

    DIST_FC: bool = True
    HEAD_NAME: Literal["ArcFace", "CosFace", "NormFace", "CurricularFace", "AdaFace", "PartialFC", "CIFP"] = "ArcFace"
    LOSS_NAME: Literal["DistCrossEntropy", "CrossEntropy"] = "DistCrossEntropy"
    RGB_MEAN: tuple[float, float, float] = (0.5, 0.5, 0.5)
    RGB_STD: tuple[float, float, float] = (0.5, 0.5, 0.5)

    OPTIMIZER: Literal["sgd", "adamw"] = "sgd"
    SCHEDULE: Literal["step", "cosine"] = "step"
    LRS: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.1, 0.01, 0.001, 0.0001, 0.00001)
    WARMUP_STEP: int = -1
    STAGES: tuple[Positive, ...] = (5, 10, 16, 22)
    START_EPOCH: Annotated[int, Field(ge=0)] = 0
    NUM_EPOCH: Positive = 30
    SAVE_EPOCHS: tuple[Positive, ...] | None = None
    SAVE_MINUTES: Annotated[float, Field(gt=0)] = 10.0
    WEIGHT_DECAY: Fraction = 5e-4
    MOMENTUM: Annotated[float, Field(ge=0, lt=1)] = 0.9
    CLIP_NORM: Annotated[float, Field(gt=0)] | None = None
    ACCUMULATE: Positive = 1

    TEACHER_CACHE: ConfigPath | None = None
    NUM_WORKERS: Annotated[int, Field(ge=0)] = 8
    AMP: bool | Literal["auto", "bf16", "fp16"] = False
    COMPILE: bool = False
    DEVICE: str = "auto"

    SERVER: ServerConfig = ServerConfig()
    CLIENT: ClientConfig = ClientConfig()
    COMPENSATION: CompensationConfig = CompensationConfig()
    CAMERA: CameraConfig = CameraConfig()
    OBFUSCATION: ObfuscationConfig = ObfuscationConfig()
    SHUFFLE: ShuffleConfig = ShuffleConfig()
    QUANTIZE: QuantizeConfig = QuantizeConfig()
    PRUNE: PruneConfig = PruneConfig()
    VALIDATION: ValidationConfig = ValidationConfig()
    HEAD: HeadConfig = HeadConfig()
    DISTILLATION: DistillationConfig = DistillationConfig()

    _name = field_validator("BACKBONE_NAME")(canonical_name)

    @field_validator("INPUT_SIZE")
    @classmethod
    def _input_size(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value != (INPUT_SIZE_PX, INPUT_SIZE_PX):
            raise ValueError(f"{list(value)}: every recogniser here takes [112, 112]; align the faces to that")
        return value

    @field_validator("RGB_MEAN", "RGB_STD")
    @classmethod
    def _half(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value != (0.5, 0.5, 0.5):
            raise ValueError(f"{list(value)}: only [0.5, 0.5, 0.5]; the frozen recognisers take images in [-1, 1]")
        return value

    @field_validator("AMP")
    @classmethod
    def _amp(cls, value: bool | str) -> bool | str:
        return "bf16" if value is True else value

    @model_validator(mode="after")
    def _zeros(self) -> Config:
        if any(bits == 1 and share for bits, share in zip(self.QUANTIZE.BITS, self.PRUNE.VALUES, strict=True)):
            raise ValueError(
                f"PRUNE.VALUES {list(self.PRUNE.VALUES)} with QUANTIZE.BITS {list(self.QUANTIZE.BITS)}: codes of 1 bit "
                "have no zero; prune channels of that tap, or give it 2 bits"
            )
        return self

    @model_validator(mode="after")
    def _norms(self) -> Config:
        if self.CLIENT.FREEZE_NORMS and self.CLIENT.INIT is None and self.BACKBONE_RESUME is None:
            raise ValueError(
                "CLIENT.FREEZE_NORMS = true without CLIENT.INIT: batch norms that start from nothing have no "
                "statistics to keep; give weights to start from"
            )
        return self

    @model_validator(mode="after")
    def _trainable(self) -> Config:
        if self.TASK == "server" and self.BACKBONE_NAME == "dlib_resnet":
            raise ValueError(
                "BACKBONE_NAME = dlib_resnet with TASK: server: its batch norms are folded away, so that it can be "
                "used but not trained; train another network, e.g. MobileFaceNet or IR_18"
            )
        return self

    @model_validator(mode="after")
    def _learning_rates(self) -> Config:
        if self.SCHEDULE == "step" and len(self.LRS) != len(self.STAGES) + 1:
            raise ValueError(
                f"LRS has {len(self.LRS)} rates and STAGES {len(self.STAGES)} epochs: "
                "expected one rate more than stages (SCHEDULE: step)"
            )
        if list(self.STAGES) != sorted(set(self.STAGES)):
            raise ValueError(f"STAGES {list(self.STAGES)}: epochs must rise")
        if self.START_EPOCH >= self.NUM_EPOCH:
            raise ValueError(f"START_EPOCH {self.START_EPOCH} must be below NUM_EPOCH {self.NUM_EPOCH}")
        return self


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
    """Put one `KEY=value` into `values`; returns what is wrong with it, if anything."""
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
    """`value` of `key` with its paths, if any, relative to the working directory; an empty one stays empty."""
    if isinstance(value, dict):
        return {name: _from_here(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, str) and value and _is_path(key):
        return str(Path(value).expanduser().absolute())
    return value


def _is_path(key: str) -> bool:
    *groups, last = key.split(".")
    model: Any = Config
    for name in groups:
        field = model.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Group)):
            return False
        model = field.annotation
    field = model.model_fields.get(last)
    if field is None:
        return False
    return _PathMark in field.metadata or any(
        _PathMark in getattr(a, "__metadata__", ()) for a in get_args(field.annotation)
    )


def _checked(values: dict[str, Any], path: Path, problems: list[str]) -> Config:
    try:
        config = Config.model_validate(values, context={"base": path.parent.resolve()})
    except ValidationError as error:
        items = error.errors()
        causes = [item for item in items if not (item["type"] == "too_short" and _has_inner(item, items))]
        problems += [_explain(item) for item in causes]
    if problems:
        raise ValueError(f"{path} has {len(problems)} problem(s):\n" + "\n".join(f"  - {p}" for p in problems))
    return config


def _has_inner(item: Any, items: list[Any]) -> bool:
    """Whether an entry of the list at `item` is wrong itself, so that the list only looks too short."""
    depth = len(item["loc"])
    return any(len(other["loc"]) > depth and other["loc"][:depth] == item["loc"] for other in items)


def _explain(item: Any) -> str:
    """One pydantic error in the words of the file: key, value, what was allowed."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return _explain_unknown(item["loc"])
    if item["type"] == "missing":
        return f"{key} is missing; train.yaml shows it with its meaning"
    message = item["msg"].removeprefix("Value error, ").replace("tuple", "list")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} = {item['input']!r}: {message[0].lower()}{message[1:]}"


def _explain_unknown(loc: tuple[int | str, ...]) -> str:
    key = ".".join(str(part) for part in loc)
    if key in RETIRED:
        return f"{key} is no longer a setting: {RETIRED[key]}; remove it"
    groups: dict[str, type[Group]] = {
        name: field.annotation
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group)
    }
    model = Config if len(loc) == 1 else DatasetConfig if loc[0] == "DATASETS" else groups[str(loc[0])]
    near = difflib.get_close_matches(str(loc[-1]), model.model_fields, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(model.model_fields)}"
    return f"unknown key {key}; {hint}"


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration in YAML's own types."""
    return config.model_dump(mode="json")


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration; the file can be used with --config again."""
    atomic_write_text(path, yaml.safe_dump(as_dict(config), sort_keys=False))

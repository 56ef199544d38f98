"""The configuration keys that all tasks share: paths, data, run and optimiser.

Keys are spelt as in the YAML file. Each task has a schema of its own: a subclass with the keys that only it reads.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from torchkit.backbone import canonical_name
from torchkit.head import HEADS
from torchkit.loss.softmax import LossName
from torchkit.util.pixels import INPUT_SIZE_PX
from torchkit.util.settings import ConfigPath, Group, NonNegative, Positive, one_of


class BranchConfig(Group):
    """One branch of training data."""

    name: str
    """Name of the set: INDEX_ROOT/name.txt, DATA_ROOT/name/train.rec or another form, see Data/README.md."""
    batch_size: Positive = 64
    """Images of this branch in a batch, of all processes together."""


class DatasetConfig(BranchConfig):
    """A branch of training data with a margin head of its own."""

    weight: NonNegative = 1.0
    """Factor of this branch's margin-softmax loss."""
    scale: Annotated[float, Field(gt=0)] = 64.0
    """s of the margin softmax."""
    margin: NonNegative = 0.5
    """m of the margin softmax: radians for ArcFace and CurricularFace, a cosine for CosFace, PartialFC and CIFP, both
    for AdaFace; NormFace has none."""


class HeadConfig(Group):
    """Settings of all margin heads; each branch has its own scale and margin."""

    SAMPLE_RATE: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the identities that take part in a step; null: 0.1 for PartialFC, 1 for the others."""


class ValidationConfig(Group):
    """Validation between epochs."""

    EVERY_EPOCHS: Annotated[int, Field(ge=0)] = 0
    """Epochs between validations; 0: none."""
    DATASETS: Annotated[tuple[str, ...], Field(min_length=1)] = ("lfw",)
    """Sets under VAL_DATA_ROOT."""


class Config(Group):
    """An experiment of any task. The defaults are the paper's recipe; train.yaml explains every key."""

    TASK: str
    """A key of torchkit.config.SCHEMAS."""
    SEED: int = 1567
    DATA_ROOT: ConfigPath
    INDEX_ROOT: ConfigPath
    DATASETS: Annotated[tuple[BranchConfig, ...], Field(min_length=1)]
    VAL_DATA_ROOT: ConfigPath | None = None

    META_RESUME: ConfigPath | None = None

    INPUT_SIZE: tuple[int, int] = (INPUT_SIZE_PX, INPUT_SIZE_PX)
    RGB_MEAN: tuple[float, float, float] = (0.5, 0.5, 0.5)
    RGB_STD: tuple[float, float, float] = (0.5, 0.5, 0.5)

    MODEL_ROOT: ConfigPath
    LOG_ROOT: ConfigPath
    LOGS: ConfigPath

    OPTIMIZER: Literal["sgd", "adamw"] = "sgd"
    SCHEDULE: Literal["step", "cosine"] = "step"
    LRS: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (0.1, 0.01, 0.001, 0.0001, 0.00001)
    WARMUP_STEP: int = -1
    STAGES: tuple[Positive, ...] = (5, 10, 16, 22)
    START_EPOCH: Annotated[int, Field(ge=0)] = 0
    NUM_EPOCH: Positive = 30
    SAVE_EPOCHS: tuple[Positive, ...] | None = None
    SAVE_MINUTES: Annotated[float, Field(gt=0)] = 10.0
    WEIGHT_DECAY: NonNegative = 5e-4
    MOMENTUM: Annotated[float, Field(ge=0, lt=1)] = 0.9
    CLIP_NORM: Annotated[float, Field(gt=0)] | None = None
    ACCUMULATE: Positive = 1

    NUM_WORKERS: Annotated[int, Field(ge=0)] = 8
    AMP: bool | Literal["auto", "bf16", "fp16"] = False
    COMPILE: bool = False
    DEVICE: str = "auto"

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
    def _learning_rates(self) -> Self:
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


class EmbeddingConfig(Config):
    """The keys of tasks that train embeddings with margin heads."""

    DATASETS: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)]

    BACKBONE_RESUME: ConfigPath | None = None
    HEAD_RESUME: ConfigPath | None = None

    BACKBONE_NAME: str = "MobileFaceNet"
    EMBEDDING_SIZE: Positive | None = None

    DIST_FC: bool = True
    HEAD_NAME: Annotated[str, one_of(HEADS)] = "ArcFace"
    LOSS_NAME: LossName = "DistCrossEntropy"
    HEAD: HeadConfig = HeadConfig()
    VALIDATION: ValidationConfig = ValidationConfig()

    _name = field_validator("BACKBONE_NAME")(canonical_name)

"""The configuration of TASK: attack, a decoder from an observation of faces back to their clear images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from torchkit.attack.inputs import check_observation
from torchkit.config.schema import Config
from torchkit.obfuscation import EVALUATION_SEED, KINDS
from torchkit.util.settings import ConfigPath, Group, NonNegative, Positive, one_of


class AttackSettings(Group):
    """Whom to attack, with what, and for how long."""

    CLIENT: ConfigPath
    """Client file, or published client weights."""
    SERVER: str | None = None
    """Name of the recogniser, e.g. mobilefacenet; null: as the client file says."""
    SERVER_CHECKPOINT: ConfigPath | None = None
    """The recogniser's weights; null: where the client file says."""
    OBSERVATION: Annotated[str, AfterValidator(check_observation)] = "O+Z"
    """Parts joined by "+": see torchkit.attack.inputs."""
    OBFUSCATION: Annotated[str, one_of(KINDS)] = "hybrid"
    """Kind, at the evaluation settings."""
    OBFUSCATION_SEED: int = EVALUATION_SEED
    """Of the hybrid's cells."""
    IMAGES: Positive | None = None
    """How many images of DATASETS to observe, evenly of all people; null: all."""
    RECORDED: ConfigPath
    """Folder of the recorded observations, which attacks on the same client and images share."""
    START: ConfigPath | None = None
    """An attacker with fewer inputs to start from; null: random weights."""
    WIDTH: Positive = 32
    """Channels of the decoder at 28x28 pixels."""
    STEPS_PER_EPOCH: Positive = 100
    """Steps between two points of the learning curve."""
    WATCHED_PEOPLE: Positive = 4
    """People of DATASETS, the last ones, that the attacker does not learn from: the learning curve is theirs."""
    SSIM_WEIGHT: NonNegative = 0.5
    """Of the structural dissimilarity, beside the mean absolute error."""
    PERCEPTUAL_WEIGHT: NonNegative = 0.0
    """Of the relative error of the recogniser's maps at its first tap."""


class AttackConfig(Config):
    """The training of an attacker."""

    TASK: Literal["attack"] = "attack"

    OPTIMIZER: Literal["sgd", "adamw"] = "adamw"
    SCHEDULE: Literal["step", "cosine"] = "cosine"
    LRS: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (2e-3, 1e-6)
    WARMUP_STEP: int = 20
    CLIP_NORM: Annotated[float, Field(gt=0)] | None = 1.0
    WEIGHT_DECAY: NonNegative = 1e-4

    ATTACK: AttackSettings

"""Typed configuration: a schema for each task, and the loader that checks a YAML file against it."""

from torchkit.config.attack import AttackConfig
from torchkit.config.client import ClientConfig
from torchkit.config.loader import RENAMED, RETIRED, SCHEMAS, as_dict, load_config, save_config
from torchkit.config.recogniser import RecogniserConfig
from torchkit.config.schema import Config, DatasetConfig, EmbeddingConfig

__all__ = [
    "RENAMED",
    "RETIRED",
    "SCHEMAS",
    "AttackConfig",
    "ClientConfig",
    "Config",
    "DatasetConfig",
    "EmbeddingConfig",
    "RecogniserConfig",
    "as_dict",
    "load_config",
    "save_config",
]

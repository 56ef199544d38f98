"""Hooks: what happens around training steps without being part of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchkit.task.base import BaseTask


class Hook:
    """Called by `BaseTask.run`; each method may be left out."""

    def before_run(self, task: BaseTask) -> None: ...

    def before_step(self, task: BaseTask) -> None: ...

    def after_step(self, task: BaseTask, metrics: Mapping[str, float]) -> None:
        """`task.step` steps are done; `metrics` are the named losses of the last."""

    def after_epoch(self, task: BaseTask) -> None:
        """`task.epoch` epochs are done."""

    def after_run(self, task: BaseTask) -> None: ...

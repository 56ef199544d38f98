"""Show progress and write a text log of mean losses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from torchkit.task.hooks.base import Hook, TrainingRun
from torchkit.util import distributed
from torchkit.util.meters import Meters

LOG_EVERY_STEPS = 100

logger = logging.getLogger("torchkit")


class ProgressHook(Hook):
    """Show images per second and the time left; log mean losses every 100 steps and after each epoch."""

    def __init__(self) -> None:
        self.meters = Meters()

    def before_run(self, task: TrainingRun) -> None:
        images = task.images_per_step
        self.bar = tqdm(
            total=task.total_steps * images,
            initial=task.step * images,
            unit=" images",
            dynamic_ncols=True,
            smoothing=0.1,
        )

    def after_step(self, task: TrainingRun, metrics: Mapping[str, float]) -> None:
        self.meters.add(metrics)
        self.bar.set_description(f"epoch {task.epoch + 1}/{task.config.NUM_EPOCH}", refresh=False)
        self.bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
        self.bar.update(task.images_per_step)
        if task.step % LOG_EVERY_STEPS == 0:
            self._log(task)

    def after_epoch(self, task: TrainingRun) -> None:
        self._log(task)

    def after_run(self, task: TrainingRun) -> None:
        self.bar.close()

    def _log(self, task: TrainingRun) -> None:
        means = self.meters.means()
        if means:
            values = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            logger.info("step %d/%d  %s", task.step, task.total_steps, values)
        self.meters.reset()


class TqdmHandler(logging.Handler):
    """Write log lines above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


def start_logging(folder: Path) -> None:
    """Send the toolkit's log to the terminal and append it to folder/train.log, in the main process alone."""
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    if not distributed.is_main():
        logger.addHandler(logging.NullHandler())
        return
    folder.mkdir(parents=True, exist_ok=True)
    form = logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S")
    for handler in (TqdmHandler(), logging.FileHandler(folder / "train.log", encoding="utf-8")):
        handler.setFormatter(form)
        logger.addHandler(handler)

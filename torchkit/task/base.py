"""The base of training runs, in one process or several: set-up, loop, hooks and checkpoints."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from torchkit.config import Config, as_dict, save_config
from torchkit.data.sampler import BranchBatchSampler
from torchkit.data.training_set import make_loader
from torchkit.head import full_state, load_full_state
from torchkit.task.checkpoints import CheckpointFolder, load_training_checkpoint
from torchkit.task.hooks import (
    CheckpointHook,
    Hook,
    LearningRateHook,
    ProgressHook,
    TensorBoardHook,
    start_logging,
)
from torchkit.task.parallel import Gradients, OptimizerState, check_same, join_processes, means
from torchkit.task.schedule import Schedule
from torchkit.util import distributed
from torchkit.util.device import amp_dtype, autocast, pick_device
from torchkit.util.files import atomic_write_text
from torchkit.util.provenance import provenance
from torchkit.util.seeding import seed_everything, seed_step

# Keys that may differ between a checkpoint and the configuration that resumes it.
FREE_KEYS = frozenset({
    "NUM_WORKERS", "SAVE_EPOCHS", "SAVE_MINUTES", "LOG_ROOT", "LOGS", "MODEL_ROOT", "DEVICE", "META_RESUME",
    "DIST_FC",
    "BACKBONE_RESUME", "HEAD_RESUME", "DATA_ROOT", "INDEX_ROOT", "VAL_DATA_ROOT",
})  # fmt: skip

logger = logging.getLogger("torchkit")


class BaseTask:
    """A run from a configuration.

    Subclasses build their networks and data in `build`, and return the losses of a batch from `losses`, the total as
    "loss".

    Each of several processes runs the same task on its part of every batch and takes the same steps (see
    torchkit.task.parallel); the main one writes files. A subclass must provide batches that are this process's part,
    and losses that are means over them.

    Args:
        config: the experiment.
        resume: continue from the newest good checkpoint in MODEL_ROOT, if there is one.
    """

    optimizer: torch.optim.Optimizer
    batches_per_epoch: int
    images_per_batch: int

    def __init__(self, config: Config, resume: bool = False) -> None:
        self.config = config
        self.device = pick_device(config.DEVICE)
        self.amp_dtype = amp_dtype(config.AMP, self.device)
        self.epoch = config.START_EPOCH  # epochs done
        self.step = 0  # steps done, over the whole run
        self.tensorboard = TensorBoardHook(config.LOG_ROOT)
        self.checkpoints = CheckpointFolder(config.MODEL_ROOT / "checkpoints")
        self._check_folder(resume)
        seed_everything(config.SEED)
        self.build()
        self.step = self.epoch * self.steps_per_epoch
        modules = self.trained_modules().values()
        join_processes(modules)
        self.optimizer = make_optimizer(config, modules)
        self.gradients = Gradients(self.optimizer, modules)
        self.optimizer_state = OptimizerState(self.optimizer, modules)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype == torch.float16)
        self.schedule = Schedule(
            config.SCHEDULE, config.LRS, config.STAGES, config.WARMUP_STEP, self.steps_per_epoch, config.NUM_EPOCH
        )
        self._continue(resume)

    # What a subclass provides

    def build(self) -> None:
        """Make the networks, and set their training data with `load_from`."""
        raise NotImplementedError

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return the modules that are trained and kept in checkpoints, by name."""
        raise NotImplementedError

    def companion_state(self) -> dict[str, Any]:
        """Return additional state for checkpoints: of modules that are trained alongside by their own optimiser."""
        return {}

    def load_companion_state(self, state: Mapping[str, Any], where: str) -> None:
        """Restore `companion_state` from a checkpoint's whole state.

        Raises:
            ValueError: it belongs to another configuration.
        """

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a batch by name, means over this process's part or all parts; "loss" is minimised."""
        raise NotImplementedError

    def export(self, epoch: int | None) -> None:
        """Write the result of training: after `epoch` epochs, or at the end of the run (None). Main process only."""
        raise NotImplementedError

    def hooks(self, more: Sequence[Hook]) -> list[Hook]:
        """Return the hooks of every run, and `more`."""
        config = self.config
        shown: list[Hook] = [ProgressHook(), self.tensorboard] if distributed.is_main() else []
        return [
            LearningRateHook(self.schedule),
            *shown,
            *more,  # before the epoch is saved, so that a run killed in between repeats them
            CheckpointHook(config.SAVE_EPOCHS, config.SAVE_MINUTES),
        ]

    def load_from(self, dataset: Dataset[Any], branches: Sequence[Sized]) -> None:
        """Load this process's part of the batches of DATASETS from `dataset`, which `SampleKey`s address.

        Raises:
            ValueError: a branch is smaller than its batch, or an epoch has fewer batches than a step takes.
        """
        config = self.config
        sizes = [data.batch_size for data in config.DATASETS]
        lengths = [len(branch) for branch in branches]
        self.batch_sampler = BranchBatchSampler(
            lengths, sizes, config.SEED, distributed.rank(), distributed.world_size()
        )
        self.batches_per_epoch = len(self.batch_sampler)
        self.images_per_batch = sum(sizes)
        if self.batches_per_epoch < config.ACCUMULATE:
            raise ValueError(
                f"ACCUMULATE = {config.ACCUMULATE}, but an epoch has {self.batches_per_epoch} batches; take fewer, or "
                "smaller batches"
            )
        self.loader = make_loader(
            dataset,
            config.NUM_WORKERS,
            self.device,
            batch_sampler=self.batch_sampler,
            persistent_workers=config.NUM_WORKERS > 0,
        )

    def log_scalars(self, scalars: Mapping[str, float]) -> None:
        """Log curves beside those of the losses. Main process only."""
        self.tensorboard.log(self, scalars)

    # The run

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; each takes ACCUMULATE batches."""
        return self.batches_per_epoch // self.config.ACCUMULATE

    @property
    def images_per_step(self) -> int:
        return self.images_per_batch * self.config.ACCUMULATE

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.NUM_EPOCH

    def run(self, more_hooks: Sequence[Hook] = ()) -> None:
        """Train until NUM_EPOCH epochs are done."""
        config = self.config
        if distributed.is_main():
            save_config(config, config.MODEL_ROOT / "config.yaml")
            atomic_write_text(config.MODEL_ROOT / "provenance.json", json.dumps(provenance(), indent=2) + "\n")
        hooks = self.hooks(more_hooks)
        for hook in hooks:
            hook.before_run(self)
        try:
            while self.epoch < config.NUM_EPOCH:
                self._train_one_epoch(hooks)
        finally:
            for hook in hooks:
                hook.after_run(self)
        if distributed.is_main():
            self.export(epoch=None)

    def _train_one_epoch(self, hooks: list[Hook]) -> None:
        for module in self.trained_modules().values():
            module.train()
        for batches in self.step_batches(self.epoch, self.step - self.epoch * self.steps_per_epoch):
            for hook in hooks:
                hook.before_step(self)
            metrics = self.train_one_step(batches)
            self.step += 1
            for hook in hooks:
                hook.after_step(self, metrics)
        self.epoch += 1
        for hook in hooks:
            hook.after_epoch(self)

    def batches(self, epoch: int, first: int) -> Iterable[Any]:
        """Iterate over this process's part of the batches of an epoch, from batch `first` on."""
        self.batch_sampler.start_at(epoch, first)
        return self.loader

    def step_batches(self, epoch: int, first_step: int) -> Iterable[tuple[Any, ...]]:
        """Iterate over the steps of an epoch, from `first_step` on: ACCUMULATE batches each."""
        batches = iter(self.batches(epoch, first_step * self.config.ACCUMULATE))
        return zip(*[batches] * self.config.ACCUMULATE, strict=False)

    def train_one_step(self, batches: Sequence[Any]) -> dict[str, float]:
        """Run forward and backward for each batch, then update with the mean gradient; return the mean losses by name.

        Raises:
            ValueError: the loss is not finite.
        """
        seed_step(self.config.SEED, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        part_metrics = []
        for batch in batches:
            loss, metrics = self._checked_loss(batch)
            self.scaler.scale(loss / len(batches)).backward()
            part_metrics.append(metrics)
        self.gradients.average()
        if self.config.CLIP_NORM is not None:
            self.scaler.unscale_(self.optimizer)
            self.gradients.clip(self.config.CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: fmean(metrics[name] for metrics in part_metrics) for name in part_metrics[0]}

    def _checked_loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        with autocast(self.amp_dtype, self.device):
            losses = self.losses(batch)
        metrics = means({name: loss.item() for name, loss in losses.items()}, self.device)
        if not math.isfinite(metrics["loss"]):
            rate = self.optimizer.param_groups[0]["lr"]
            raise ValueError(
                f"the loss is {metrics['loss']} at step {self.step} with learning rate {rate:g} ({metrics}); take "
                "smaller LRS or a longer WARMUP_STEP, and go on from the last checkpoint with --resume"
            )
        return losses["loss"], metrics

    # Checkpoints

    def save_checkpoint(self) -> None:
        """Write the state of the run; every process must call it."""
        state = {
            "config": as_dict(self.config),
            "epoch": self.epoch,
            "step": self.step,
            "modules": {name: full_state(module) for name, module in self.trained_modules().items()},
            "optimizer": self.optimizer_state.full(),
            "scaler": self.scaler.state_dict(),
            **self.companion_state(),
        }
        if distributed.is_main():
            path = self.checkpoints.save(self.step, state)
            logger.info("checkpoint after %d steps: %s", self.step, path)

    def _check_folder(self, resume: bool) -> None:
        start_logging(self.config.LOGS)
        if not resume and self.config.META_RESUME is None and self.checkpoints.files():
            raise ValueError(
                f"MODEL_ROOT = {self.config.MODEL_ROOT} already holds a run; go on with --resume, or give another "
                "folder (MODEL_ROOT=...)"
            )

    def _continue(self, resume: bool) -> None:
        """Restore the checkpoint META_RESUME or, with `resume`, the newest good one."""
        checkpoint = self.checkpoints.load_newest() if resume else None
        newest = checkpoint[1]["step"] if checkpoint else -1
        check_same(newest, f"newest checkpoint in MODEL_ROOT = {self.config.MODEL_ROOT}", self.device)
        if checkpoint is not None:
            path, state = checkpoint
        elif self.config.META_RESUME is not None:
            path, state = self.config.META_RESUME, load_training_checkpoint(self.config.META_RESUME)
        else:
            return
        self._check_same_experiment(state["config"], str(path))
        for name, module in self.trained_modules().items():
            load_full_state(module, state["modules"][name], f"{path}, {name}")
        self.optimizer_state.load(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.load_companion_state(state, str(path))
        self.epoch, self.step = state["epoch"], state["step"]
        logger.info("resumed after %d steps from %s", self.step, path)

    def _check_same_experiment(self, saved: dict[str, Any], where: str) -> None:
        own = as_dict(self.config)
        changed = [
            f"{key}: {saved.get(key)!r} -> {own[key]!r}"
            for key in own
            if key not in FREE_KEYS and saved.get(key) != own[key]
        ]
        if changed:
            raise ValueError(
                f"{where} belongs to another experiment; it differs in {'; '.join(changed)}. Restore these keys, or "
                "start from its weights instead with BACKBONE_RESUME"
            )


def make_optimizer(config: Config, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """Make SGD or AdamW, fused, over the modules' parameters; batch norms have no weight decay."""
    norm: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for module in modules:
        for part in module.modules():
            group = norm if isinstance(part, nn.modules.batchnorm._BatchNorm) else other
            group.extend(part.parameters(recurse=False))
    groups = [{"params": other, "weight_decay": config.WEIGHT_DECAY}, {"params": norm, "weight_decay": 0.0}]
    if config.OPTIMIZER == "adamw":
        return torch.optim.AdamW(groups, lr=config.LRS[0], betas=(config.MOMENTUM, 0.999), fused=True)
    sgd = torch.optim.SGD(groups, lr=config.LRS[0], momentum=config.MOMENTUM, fused=True)
    sgd.register_step_pre_hook(_start_momentum)
    return sgd


def _start_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Initialise the momentum of parameters at their first gradient: PyTorch's fused SGD requires all at once.

    A quantiser's step, for example, has no gradient before QUANTIZE.START_EPOCH.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter] if parameter.grad is not None else {}
            if group["momentum"] and parameter.grad is not None and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter.grad)

"""Profile training steps."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from torchkit.task.base import BaseTask

WARMUP_STEPS = 2
TABLE_ROWS = 25


def profile_steps(task: BaseTask, steps: int) -> tuple[str, Path]:
    """Profile `steps` training steps after two of warm-up; save the trace and nothing else.

    Returns:
        A table of the slowest operators, and the path of the Chrome trace (for chrome://tracing or Perfetto).
    """
    path = task.config.LOGS / "profile_trace.json"
    activities = [ProfilerActivity.CPU]
    if task.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    all_batches = list(islice(task.step_batches(task.epoch, 0), WARMUP_STEPS + steps))
    for batches in all_batches[:WARMUP_STEPS]:
        task.train_one_step(batches)
    with profile(activities=activities) as profiler:
        for batches in all_batches[WARMUP_STEPS:]:
            with torch.profiler.record_function("training step"):
                task.train_one_step(batches)
    profiler.export_chrome_trace(str(path))
    order = "self_cuda_time_total" if task.device.type == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=TABLE_ROWS), path

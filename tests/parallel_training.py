"""Training in one process or several, in float64, for tests/task/test_parallel.py; also what torchrun starts there.

In float32 two correct runs drift apart within a few steps, since batch norms and kinks of activations blow up the
rounding of sums. In float64 a hundred-millionth tells a mistake from rounding.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.backbone import NETWORKS, Backbone, Network
from torchkit.backbone.mobilefacenet import ConvBlock
from torchkit.config import load_config
from torchkit.task import BaseTask, ServerTask, TrainTask
from torchkit.task.hooks import Hook, TrainingRun
from torchkit.task.parallel import Gradients, broadcast_state, means_with_gradient
from torchkit.task.sync import convert_sync_layers
from torchkit.util import distributed
from torchkit.util.launch import run_processes, start_processes

EMBEDDING_SIZE = 16


class Tiny(Backbone):
    """The smallest network that has all that counts here: maps at 28, 14, 7 and 4 pixels, batch norms, a dropout."""

    def __init__(self, embedding_size: int = EMBEDDING_SIZE) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        widths, strides = [3, 8, 16, 16, 32], [4, 2, 2, 2]
        self.body = nn.ModuleList(
            ConvBlock(widths[i], widths[i + 1], 5 if i == 0 else 3, strides[i], 1) for i in range(len(strides))
        )
        last = [nn.Flatten(), nn.Dropout(0.4), nn.Linear(32 * 16, embedding_size, bias=False)]
        self.output_layer = nn.Sequential(*last, nn.BatchNorm1d(embedding_size, affine=False))

    def segments(self) -> list[list[nn.Module]]:
        return [*([block] for block in self.body), [self.output_layer]]


@contextlib.contextmanager
def with_tiny() -> Iterator[None]:
    """The toolkit knows the network "tiny"."""
    NETWORKS["tiny"] = Network(Tiny, "these tests", "rgb")
    try:
        yield
    finally:
        del NETWORKS["tiny"]


TASKS: dict[str, type[BaseTask]] = {"client": TrainTask, "server": ServerTask}


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Everything that would be float32 is float64."""
    single = Tensor.float
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Tensor.float = single  # type: ignore[method-assign]


class Curve(Hook):
    """Adds the losses of each step to MODEL_ROOT/curve.jsonl."""

    def after_step(self, task: TrainingRun, metrics: Mapping[str, float]) -> None:
        if distributed.is_main():
            with (task.config.MODEL_ROOT / "curve.jsonl").open("a") as file:
                file.write(json.dumps(metrics) + "\n")


def train(config: Path, task: str, resume: bool, overrides: list[str]) -> None:
    with in_double():
        TASKS[task](load_config(config, overrides), resume=resume).run([Curve()])


class Small(nn.Module):
    """A network with what processes must share: batch norms, a dropout, and a part that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.4)
        self.linear = nn.Linear(4 * 36, 5)
        self.last = nn.BatchNorm1d(5, affine=False)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.linear(self.drop(self.norm(self.conv(x))).flatten(1)))


def small_step(max_norm: float) -> dict[str, Tensor]:
    """Forward and backward of `Small` on this process's part of 6 images: outputs, gradients, state."""
    with in_double():
        torch.manual_seed(distributed.rank())  # weights that differ until they are shared
        network = Small()
        if distributed.world_size() > 1:
            convert_sync_layers(network)
        broadcast_state([network])
        optimizer = torch.optim.SGD(network.parameters(), lr=1)
        generator = torch.Generator().manual_seed(3)
        images = torch.randn(6, 3, 8, 8, generator=generator)[distributed.rank() :: distributed.world_size()]
        factors = torch.randn(6, 5, generator=generator)[distributed.rank() :: distributed.world_size()]
        torch.manual_seed(7)
        output = network(images)
        means_with_gradient((output * factors).sum(dim=1).mean()).exp().backward()  # no mean of the processes' own
        gradients = Gradients(optimizer, [network])
        gradients.average()
        gradients.clip(max_norm)
        found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        evaluated = network.eval()(images)
        return {"output": output.detach(), "evaluated": evaluated.detach(), **found, **dict(network.named_buffers())}


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    start_processes("cpu")
    todo = json.loads(jobs.read_text())
    for job in todo["train"]:
        train(Path(job["config"]), job["task"], job["resume"], job["overrides"])
    torch.save(small_step(0.5), jobs.parent / f"small_{distributed.rank()}.pt")


if __name__ == "__main__":
    with with_tiny():
        run_processes(lambda: main(Path(sys.argv[1])), show_traceback=False)

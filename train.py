"""Train a PRO-Face C client against a frozen recogniser, or a recogniser.

    python train.py                                    the experiment of train.yaml
    python train.py --config my.yaml                   your own experiment
    python train.py NUM_EPOCH=3 SERVER.NAME=ir_50      with changes, in YAML syntax
    python train.py --config configs/attack.yaml       an attacker (TASK: attack) on a client
    python train.py --config configs/server.yaml       a recogniser (TASK: server), which can be a server afterwards
    python train.py --resume                           continue a run that was stopped
    torchrun --nproc-per-node=2 train.py               in two processes, with a GPU each if there are any

train.yaml explains every key with its unit. MODEL_ROOT receives client.pth (what validation/val_main.py takes), a
client file after each of SAVE_EPOCHS, client_best.pth and validation.json if VALIDATION asks for them, checkpoints/,
the resolved config.yaml and provenance.json; LOG_ROOT the TensorBoard curves; LOGS train.log. Of a recogniser the files
are called recogniser.pth (what SERVER.CHECKPOINT and validation/server_main.py take), and so on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torchkit.config import AttackConfig, ClientConfig, Config, RecogniserConfig, load_config
from torchkit.task import AttackTask, BaseTask, ServerTask, TrainTask
from torchkit.task.hooks import Hook
from torchkit.task.profiling import profile_steps
from torchkit.util.cli import CommandParser, integer_from
from torchkit.util.device import keep_freed_memory
from torchkit.util.distributed import is_main
from torchkit.util.launch import run_processes, start_processes
from validation.while_training import ValidationHook

DEFAULT_CONFIG = Path(__file__).resolve().parent / "train.yaml"


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.option("config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="YAML file")
    parser.switch("resume", help="continue the newest good checkpoint in MODEL_ROOT")
    parser.switch("new-key", help="draw a new key for the client of BACKBONE_RESUME before training")
    parser.option(
        "profile", type=integer_from(1), metavar="N", help="profile N steps and stop: a table, a Chrome trace"
    )
    parser.add_traceback()
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a key of the file")
    return parser.parse_intermixed_args()


def make_task(config: Config, arguments: argparse.Namespace) -> tuple[BaseTask, list[Hook]]:
    """Make the run of TASK, and the hook that validates it between epochs if VALIDATION asks for it."""
    if isinstance(config, ClientConfig):
        task: BaseTask = TrainTask(config, resume=arguments.resume, new_key=arguments.new_key)
        return task, [ValidationHook(config)] if config.VALIDATION.EVERY_EPOCHS else []
    if arguments.new_key:
        raise ValueError(f"--new-key with TASK: {config.TASK}: only a client that is trained has a key; leave it out")
    if isinstance(config, AttackConfig):
        return AttackTask(config, resume=arguments.resume), []
    assert isinstance(config, RecogniserConfig), config.TASK
    return ServerTask(config, resume=arguments.resume), (
        [ValidationHook(config)] if config.VALIDATION.EVERY_EPOCHS else []
    )


def main(arguments: argparse.Namespace) -> None:
    config = load_config(arguments.config, arguments.overrides)
    start_processes(config.DEVICE)
    task, hooks = make_task(config, arguments)
    if arguments.profile:
        table, trace = profile_steps(task, arguments.profile)
        if is_main():
            print(f"{table}\ntrace: {trace}")
    else:
        task.run(hooks)


if __name__ == "__main__":
    arguments = parse_arguments()
    keep_freed_memory()
    run_processes(lambda: main(arguments), arguments.traceback)

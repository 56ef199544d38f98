"""Train a PRO-Face C client against a frozen recogniser.

    python train.py                                    the paper's recipe, train.yaml
    python train.py --config my.yaml                   your own experiment
    python train.py NUM_EPOCH=3 SERVER.NAME=ir_50      with changes, in YAML syntax
    python train.py --resume                           go on where a run was stopped

train.yaml explains every key with its unit. MODEL_ROOT receives client.pth (what validation/val_main.py takes), a
client file after each of SAVE_EPOCHS, client_best.pth and validation.json if VALIDATION asks for them, checkpoints/,
the resolved config.yaml and provenance.json; LOG_ROOT the TensorBoard curves; LOGS train.log.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from torchkit.config import load_config
from torchkit.task import TrainTask
from torchkit.task.profiling import profile_steps
from torchkit.util.cli import run_command
from torchkit.util.device import keep_freed_memory
from validation.while_training import ValidationHook

DEFAULT_CONFIG = Path(__file__).resolve().parent / "train.yaml"


def parse_arguments() -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="YAML file (train.yaml)")
    parser.add_argument("--resume", action="store_true", help="continue the newest good checkpoint in MODEL_ROOT")
    parser.add_argument(
        "--new-key", action="store_true", help="draw a new key for the client of BACKBONE_RESUME before training"
    )
    parser.add_argument("--profile", type=int, metavar="N", help="profile N steps and stop: a table, a Chrome trace")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a key of the file")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("WORLD_SIZE > 1: training runs in one process; start train.py without torchrun")
    config = load_config(arguments.config, arguments.overrides)
    task = TrainTask(config, resume=arguments.resume, new_key=arguments.new_key)
    if arguments.profile:
        table, trace = profile_steps(task, arguments.profile)
        print(f"{table}\ntrace: {trace}")
    else:
        task.run([ValidationHook(config)] if config.VALIDATION.EVERY_EPOCHS else [])


if __name__ == "__main__":
    arguments = parse_arguments()
    keep_freed_memory()
    run_command(lambda: main(arguments), arguments.traceback)

r"""What matters in training a client: the same budget, seed and data, one thing changed at a time.

    python -m torchkit.data.prepare folder --root Data/faces/train --name dev --index-root Data/faces \
        --holdout 10 --pairs 3000
    python benchmarks/ablations.py                          all ablations, six minutes each on two cores
    python benchmarks/ablations.py --only difference random_difference

Each ablation trains one epoch on 62 of the 72 training people of Data/faces and is measured on the ten others (hybrid
obfuscation); the people of the reported validation set are not seen. Those that are there already are not repeated.
Writes runs/ablations/NAME/ and the table runs/ablations/ablations.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "runs" / "ablations"
sys.path.insert(0, str(ROOT))

from torchkit.util.cli import CommandParser, run_command  # noqa: E402
from torchkit.util.files import atomic_write_text  # noqa: E402
from validation.report.tables import Table  # noqa: E402

COMMON = [
    "DATASETS.0.name=dev", "DATA_ROOT=Data/faces/train", "NUM_EPOCH=1", "CAMERA.SHARE=0",
    "LRS=[0.002, 0.00001]", "CLIENT.INTERFACE=zero", "CLIENT.FREEZE_NORMS=false",
    "CLIENT.INPUT=both", "COMPENSATION.FORM=gate", "SHUFFLE.TAPS=[1]", "SHUFFLE.BLOCK_PX=14",
    "QUANTIZE.BITS=32", "PRUNE.CHANNELS=0",
]  # fmt: skip
"""Where all start: a client with the recogniser's weights, residual and image as input, gate, float features."""


@dataclass(frozen=True)
class Ablation:
    like: str | None
    """The ablation that it is compared with; None: COMMON alone."""
    changes: tuple[str, ...]
    """In what it differs from that."""


ABLATIONS = {
    "both": Ablation(None, ()),
    "no_shuffle": Ablation("both", ("SHUFFLE.TAPS=[]",)),
    "difference": Ablation("both", ("CLIENT.INPUT=difference", "CLIENT.FREEZE_NORMS=true", "COMPENSATION.FORM=add")),
    "random_residual": Ablation("both", ("CLIENT.INIT=", "CLIENT.INPUT=residual")),
    "random_difference": Ablation("difference", ("CLIENT.INIT=", "CLIENT.FREEZE_NORMS=false")),
    "other_both": Ablation("both", (
        "SERVER.NAME=dlib_resnet", "SERVER.CHECKPOINT=model/dlib_face_recognition_resnet_model_v1.dat",
    )),
    "other_residual": Ablation("other_both", ("CLIENT.INPUT=residual",)),
    "other_difference": Ablation("other_both", (
        "CLIENT.INPUT=difference", "CLIENT.FREEZE_NORMS=true", "COMPENSATION.FORM=add",
    )),
    "other_margin": Ablation("other_difference", ("DATASETS.0.weight=1",)),
    "other_hybrid": Ablation("other_difference", (
        "OBFUSCATION.KINDS={gaussian: 0, median: 0, pixelate: 0, hybrid: 1}",
    )),
    "other_sgd": Ablation("other_difference", ("OPTIMIZER=sgd", "LRS=[0.1, 0.0001]")),
    "tap_3": Ablation("difference", (
        "CLIENT.INTERFACE=identity", "SHUFFLE.TAPS=[3]", "SHUFFLE.BLOCK_PX=7", "PRUNE.CHANNELS=[1, 1, 0, 1]",
        "QUANTIZE.BITS=[32, 32, 4, 32]", "LRS=[0.0003, 0.00001]",
    )),
    "tap_3_slow": Ablation("tap_3", ("LRS=[0.00003, 0.000001]",)),
    "tap_3_zero": Ablation("tap_3", (
        "CLIENT.INTERFACE=zero", "LRS=[0.002, 0.00001]", "QUANTIZE.START_EPOCH=0.3", "QUANTIZE.RAMP_EPOCHS=0.2",
    )),
    "tap_3_gate": Ablation("tap_3", ("COMPENSATION.FORM=gate",)),
    "tap_3_film": Ablation("tap_3", ("COMPENSATION.FORM=film",)),
    "tap_3_per_channel": Ablation("tap_3", ("COMPENSATION.WEIGHTS_PER=channel",)),
    "tap_3_no_maps": Ablation("tap_3", ("DISTILLATION.MAP_WEIGHT=0",)),
    "tap_3_camera": Ablation("tap_3", ("CAMERA.SHARE=0.5",)),
    "tap_3_8_bits": Ablation("tap_3_slow", ("QUANTIZE.BITS=[32, 32, 8, 32]",)),
    "tap_3_2_bits": Ablation("tap_3", ("QUANTIZE.BITS=[32, 32, 2, 32]",)),
}  # fmt: skip


def overrides(name: str | None) -> list[str]:
    """All that an ablation changes of configs/faces.yaml."""
    return COMMON if name is None else [*overrides(ABLATIONS[name].like), *ABLATIONS[name].changes]


def run_ablation(name: str) -> None:
    """Train and measure one ablation, if that has not been done."""
    folder = OUT / name
    if not (folder / "client.pth").is_file():
        places = [f"MODEL_ROOT={folder}", f"LOGS={folder}", f"LOG_ROOT={folder / 'tensorboard'}"]
        run("train.py", "--config", "configs/faces.yaml", "--resume", *overrides(name), *places)
    if not (folder / "validation" / "results.json").is_file():
        run(
            "validation/val_main.py", "--backbone-resume", str(folder / "client.pth"), "--data-root", "Data/validation",
            "--datasets", "dev", "--obfuscations", "hybrid", "--out", str(folder / "validation"),
        )  # fmt: skip


def run(*command: str) -> None:
    """Run one of the project's commands from its folder.

    Raises:
        ValueError: it failed, and has said why.
    """
    if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        raise ValueError(f"{' '.join(command)} failed")


def measured(name: str) -> list[str] | None:
    """Name, accuracies in percent and bytes of an ablation; None if it has not been run."""
    path = OUT / name / "validation" / "results.json"
    if not path.is_file():
        return None
    rows = {row["condition"]: row for row in json.loads(path.read_text())["rows"]}
    accuracies = [f"{100 * rows[condition]['accuracy']:.2f}" for condition in ("clear", "obfuscated", "compensated")]
    changed = f"{ABLATIONS[name].like}, " + " ".join(ABLATIONS[name].changes) if ABLATIONS[name].like else ""
    return [name, changed, *accuracies, f"{rows['compensated']['payload_bytes']:,.0f}"]


def main(arguments: Namespace) -> None:
    for name in arguments.only:
        run_ablation(name)
    rows = [row for name in ABLATIONS if (row := measured(name)) is not None]
    columns = ["ablation", "as", "clear %", "obfuscated %", "compensated %", "message bytes"]
    table = Table(columns, rows, text_columns=2)
    atomic_write_text(OUT / "ablations.md", table.markdown())
    print(table.text())


if __name__ == "__main__":
    parser = CommandParser(__doc__)
    parser.option("only", nargs="+", choices=ABLATIONS, default=list(ABLATIONS), metavar="NAME", help="which")
    parser.add_traceback()
    parsed = parser.parse_args()
    run_command(lambda: main(parsed), parsed.traceback)

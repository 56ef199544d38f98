"""Report what attackers recover of a client's faces: its measured privacy.

    python validation/attack_main.py --client runs/faces/client.pth --faces Data/faces --out runs/attack
    python validation/attack_main.py --client runs/faces/client.pth --faces Data/faces --attacks inversion --budget full
    python validation/attack_main.py --config attack.yaml                the same settings from a file

The attacker is the server: it holds the recogniser, the compensation weights and every message, and pairs of clear
images and messages from a client of its own. The server is meant to get the embedding e of the clear image, everybody
may see the obfuscated image O; what counts is what the features Z add: the excess of the attack on O+Z, and of that on
O+e+Z, over the attack on O+e. Attackers learn from one set of people and are measured on another:
docs/privacy.md explains.

Prints tables and writes to OUT: report.html with the image sheet, results.json, results.csv and results.md. A run that
was stopped goes on with the same command; attacks that are finished are not repeated.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torchkit.util.cli import run_command
from torchkit.util.device import keep_freed_memory
from validation.attack_settings import load_settings, parse_arguments
from validation.attack_suite import AttackSuite
from validation.report.attack_outputs import write_attack_outputs


def main(arguments: argparse.Namespace) -> None:
    settings = load_settings(arguments)
    results = AttackSuite(settings).run()
    written = write_attack_outputs(settings.out, results)
    for title, table in results.tables().items():
        print(f"{title}\n\n{table.text()}")
    print("\n".join(textwrap.fill(text, 110, initial_indent="* ", subsequent_indent="  ") for text in results.verdicts))
    print("wrote " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    parsed = parse_arguments(__doc__)
    keep_freed_memory()
    run_command(lambda: main(parsed), parsed.traceback)

"""Errors that a user can mend end in one message and exit code 2; bugs keep their traceback."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from torchkit.util.cli import CommandParser, parse_command, run_command, share_below


class Deadly(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, position: int) -> int:
        os._exit(1)


class Wrong(Deadly):
    def __getitem__(self, position: int) -> int:
        raise ValueError("faces.txt, line 3: a.jpg: no image")


def raising(error: Exception) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize("error", [ValueError("bad key"), FileNotFoundError("no file")])
def test_message_and_exit_code(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(raising(error), show_traceback=False)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_traceback_on_demand_and_for_bugs() -> None:
    with pytest.raises(ValueError, match="bad key"):
        run_command(raising(ValueError("bad key")), show_traceback=True)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_command(raising(RuntimeError("shape mismatch")), show_traceback=False)


def test_worker_that_dies(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: list(DataLoader(Deadly(), num_workers=1)) and None, show_traceback=False)
    assert stop.value.code == 2
    assert "Lower NUM_WORKERS" in capsys.readouterr().err


def test_error_in_a_worker_is_shown_without_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(lambda: list(DataLoader(Wrong(), num_workers=1)) and None, show_traceback=False)
    assert capsys.readouterr().err == "error: faces.txt, line 3: a.jpg: no image\n"


DOC = """Count the images.

    python count.py faces/
"""


def count_parser() -> CommandParser:
    parser = CommandParser(DOC, "count.py")
    parser.option("batch-size", default=8)
    parser.option("share", type=share_below(1), default=0.5, metavar="SHARE", help="100 % is too much")
    parser.option("out", short="o", default=Path("counts"))
    parser.switch("flip", help="mirror images too")
    parser.add_traceback()
    return parser


def test_options_have_their_defaults() -> None:
    arguments = vars(count_parser().parse_args([]))
    assert arguments == {"batch_size": 8, "share": 0.5, "out": Path("counts"), "flip": False, "traceback": False}
    assert count_parser().parse_args(["-o", "elsewhere"]).out == Path("elsewhere")


def test_help_shows_docstring_and_defaults() -> None:
    shown = count_parser().format_help()
    assert "Count the images.\n" in shown and shown.endswith("    python count.py faces/\n")
    assert "(8)" in shown and "(counts)" in shown and "100 % is too much (0.5)" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size: 0: expected a whole number of at least 1"),
        (["--batch-size", "1.5"], "--batch-size: 1.5: expected a whole number of at least 1"),
        (["--share", "1"], "--share: 1: expected a number from 0 to below 1"),
        (["--share", "nan"], "--share: nan: expected a number from 0 to below 1"),
        (["--share", "half"], "--share: half: expected a number from 0 to below 1"),
        (["--outt"], "unrecognized arguments: --outt"),
    ],
)
def test_arguments_out_of_range(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        count_parser().parse_args(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {message}; count.py --help explains the options\n"


class CountCommand:
    """Count the images of a folder."""

    HELP = "count"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", type=Path)

    def run(self, arguments: argparse.Namespace) -> None: ...


def test_program_of_several_commands() -> None:
    command = CountCommand()
    arguments = parse_command(DOC, "images.py", {"count": command}, ["count", "faces", "--traceback"])
    assert (arguments.command, arguments.folder, arguments.traceback) == ("count", Path("faces"), True)
    assert arguments.run == command.run

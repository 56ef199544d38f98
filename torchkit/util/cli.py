"""What all commands share: their arguments, and the errors of users, which end with one message and exit code 2.

The help of a command is its module's docstring: the first paragraph is the summary, the rest follows the options.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

USER_ERROR_EXIT = 2


def integer_from(minimum: int) -> Callable[[str], int]:
    """Type of an option that takes whole numbers from `minimum` up."""

    def integer(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text) or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least {minimum}")
        return int(text)

    return integer


def share_below(limit: float) -> Callable[[str], float]:
    """Type of an option that takes numbers from 0 to below `limit`."""

    def share(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = limit
        if not 0 <= value < limit:
            raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to below {limit:g}")
        return value

    return share


SHARED_OPTIONS: dict[str, dict[str, Any]] = {
    "device": {"default": "auto", "metavar": "NAME", "help": "auto, cpu, cuda or cuda:N"},
    "amp": {
        "default": "auto",
        "choices": ("auto", "bf16", "none"),
        "help": "precision; auto: bf16 where the device computes in it, else none",
    },
    "batch-size": {"default": 64, "type": integer_from(1), "metavar": "N", "help": "images worked on at once"},
    "seed": {"default": 0, "type": int, "metavar": "N", "help": "seed of what is drawn at random"},
    "out": {"type": Path, "metavar": "DIR", "help": "folder for the results"},
}
"""Settings of the options that several commands have; a command may replace them."""


class CommandParser(argparse.ArgumentParser):
    """The arguments of a command.

    Args:
        doc: the docstring of the command's module.
        prog: name of the command; None: the name of its file.
    """

    def __init__(self, doc: str | None, prog: str | None = None) -> None:
        summary, _, details = (doc or "").partition("\n\n")
        super().__init__(
            prog=prog, description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def option(self, name: str, short: str | None = None, **settings: Any) -> None:
        """Add `--name`, and `-short` if it has a short form; its help ends with the default.

        Args:
            name: without dashes, e.g. "batch-size".
            short: a letter.
            settings: as for `add_argument`; what they leave out comes from `SHARED_OPTIONS`.
        """
        settings = {**SHARED_OPTIONS.get(name, {}), **settings}
        if settings.get("default") is not None:
            settings["help"] += f" ({_in_words(settings['default'])})"
        settings["help"] = settings["help"].replace("%", "%%")  # argparse formats it
        self.add_argument(*([f"-{short}"] if short else []), f"--{name}", **settings)

    def switch(self, name: str, help: str) -> None:
        """Add `--name`, which takes no value and is off by default."""
        self.add_argument(f"--{name}", action="store_true", help=help)

    def add_traceback(self) -> None:
        """Add `--traceback`, see `run_command`."""
        self.switch("traceback", help="show where in the code an error arose")

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2, like `run_command`."""
        print(f"error: {message.removeprefix('argument ')}; {self.prog} --help explains the options", file=sys.stderr)
        raise SystemExit(USER_ERROR_EXIT)


def _in_words(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


class Command(Protocol):
    """A module that is one of several commands of a program; its docstring is the text of `--help`."""

    HELP: str
    """Its line in the program's own `--help`."""

    def add_arguments(self, parser: CommandParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> None: ...


def parse_command(
    doc: str | None, prog: str, commands: Mapping[str, Command], given: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse the arguments of a program of several commands.

    Args:
        doc: the docstring of the program's module.
        prog: name of the program.
        commands: by name.
        given: arguments to parse; None: the command line.

    Returns:
        The arguments, with the chosen command's `run` under that name.
    """
    parser = CommandParser(doc, prog)
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in commands.items():
        subparser = choices.add_parser(name, help=command.HELP, doc=command.__doc__)
        command.add_arguments(subparser)
        subparser.add_traceback()
        subparser.set_defaults(run=command.run)
    return parser.parse_args(given)


def run_command(main: Callable[[], None], show_traceback: bool) -> None:
    """Run `main`; print an error that the user can fix as "error: ..." on stderr and exit with code 2.

    Args:
        main: the command.
        show_traceback: let Python print the traceback instead.
    """
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        if show_traceback or not can_be_mended(error):
            raise
        print(f"error: {message_of(error)}", file=sys.stderr)
        raise SystemExit(USER_ERROR_EXIT) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def can_be_mended(error: Exception) -> bool:
    """Whether the user can fix the error; of PyTorch's RuntimeErrors, only that a worker was killed."""
    return not isinstance(error, RuntimeError) or "DataLoader worker" in str(error)


def message_of(error: BaseException) -> str:
    """Return the error's message; for an error in a data-loader worker the original message, without its traceback."""
    text = str(error)
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return f"{text.splitlines()[0]} Is memory short? Lower NUM_WORKERS (training) or --num-workers (validation)."
    if "Original Traceback" not in text:
        return text or type(error).__name__
    last = re.split(r"\n(?=\w[\w.]*(?:Error|Exception): )", text)[-1]
    return last.partition(": ")[2].strip()

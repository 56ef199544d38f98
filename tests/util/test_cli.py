"""Errors that a user can mend end in one message and exit code 2; bugs keep their traceback."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from torch.utils.data import DataLoader, Dataset

from torchkit.util.cli import run_command


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

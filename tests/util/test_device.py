"""Precision by device, and the memory that glibc keeps."""

from __future__ import annotations

import pytest
import torch

from torchkit.util.device import amp_dtype, autocast, computes_bf16, keep_freed_memory, pick_device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("amp", "expected"),
    [(False, None), ("none", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_named_precisions(amp: bool | str, expected: torch.dtype | None) -> None:
    assert amp_dtype(amp, CPU) == expected


@pytest.mark.parametrize("capable", [True, False])
def test_auto_takes_bf16_only_where_the_device_computes_in_it(capable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchkit.util.device.computes_bf16", lambda _: capable)
    assert amp_dtype("auto", CPU) == (torch.bfloat16 if capable else None)


def test_whether_the_processor_has_bf16_is_a_plain_answer() -> None:
    assert computes_bf16(CPU) in (True, False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_autocast_decides_the_type_of_products(dtype: torch.dtype | None) -> None:
    with autocast(dtype, CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (dtype or torch.float32)


def test_keeping_freed_memory_leaves_memory_usable() -> None:
    for keep in (True, False, True):
        keep_freed_memory(keep)
        assert torch.ones(1 << 24).sum().item() == 1 << 24


def test_unknown_device_names_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"'abacus'.*auto, cpu, cuda"):
        pick_device("abacus")

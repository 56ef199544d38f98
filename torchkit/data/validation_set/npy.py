"""Read a plain array: `NAME.npy` and `NAME_list.npy`.

(N, 3, 112, 112) or (N, 112, 112, 3); uint8 0..255 or float32 in [-1, 1] (v / 127.5 - 1). Channels are RGB in every
case, unlike in a bcolz carray. The file is mapped, not read as a whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from torchkit.data.problems import Report, stop
from torchkit.data.validation_set.base import (
    DOWNLOAD_AGAIN,
    IMAGE_SHAPE,
    DistinctImages,
    ValidationSet,
    check_pair_count,
    list_path,
    read_list,
)
from torchkit.data.validation_set.colours import rows_out_of_range, to_8_bits

CHANNELS_LAST_SHAPE = (112, 112, 3)
ROWS_AT_ONCE = 256
FORM = "(N, 3, 112, 112) or (N, 112, 112, 3), uint8 or float32 in [-1, 1], RGB"


def load_npy(root: Path, name: str, report: Report = stop) -> ValidationSet | None:
    """Read NAME.npy and NAME_list.npy; None if a problem was reported.

    Raises:
        ValueError: the array has another shape or dtype, or the file's length does not match its header.
    """
    path = root / f"{name}.npy"
    array = _map(path)
    same = read_list(list_path(root, name), len(array), report)
    distinct = DistinctImages(len(array), path)
    for start in range(0, len(array), ROWS_AT_ONCE):
        block = np.asarray(array[start : start + ROWS_AT_ONCE])
        wrong = dict(rows_out_of_range(block)) if block.dtype == np.float32 else {}
        for row, value in wrong.items():
            report(ValueError(f"{path}: value {value:.6g} in row {start + row}, expected -1 to 1, v / 127.5 - 1"))
        images = to_8_bits(block) if block.dtype == np.float32 else block
        if block.shape[1:] == CHANNELS_LAST_SHAPE:
            images = images.transpose(0, 3, 1, 2)
        for offset, image in enumerate(images):
            if offset not in wrong:
                distinct.set(start + offset, image)
    return distinct.make_set(name, same)


def _map(path: Path) -> np.ndarray:
    """Map the array in `path`, after checking shape, dtype and length."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran_order, dtype = read_header[version](file)
            offset = file.tell()
    except Exception as error:  # NumPy parses the header as Python; a damaged one can raise nearly anything
        raise ValueError(f"{path} is no .npy file ({error}): {DOWNLOAD_AGAIN}") from error
    if shape[1:] not in (IMAGE_SHAPE, CHANNELS_LAST_SHAPE) or dtype not in (np.uint8, np.float32):
        raise ValueError(f"{path} holds {shape} {dtype}, expected {FORM}")
    check_pair_count(str(path), shape[0], DOWNLOAD_AGAIN)
    expected = offset + shape[0] * int(np.prod(IMAGE_SHAPE)) * dtype.itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, its header promises {expected}: {DOWNLOAD_AGAIN}")
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order="F" if fortran_order else "C")

"""Verification sets in all supported forms; `load_validation_set` finds a set by its name under a folder.

| looked for | form | colours in the file |
|---|---|---|
| 1. `NAME/meta/`, `NAME_list.npy` | bcolz carray (N, 3, 112, 112) float32 in [-1, 1] (AdaFace) | BGR |
| 2. `NAME.bin` | pickle of (N encoded images, N/2 bools) (InsightFace) | decoded to RGB |
| 3. `NAME/pairs.txt` | aligned images, pairs in LFW's format or `path path same` | decoded to RGB |
| 4. `NAME.npy`, `NAME_list.npy` | array, channels first or last, uint8 or float32 in [-1, 1] | RGB |

The published packages hold 1 and 2 side by side: then 1 is read. Any other two forms of one name are an error, since
they are ambiguous. Rows 2k and 2k + 1 are pair k; an image of several pairs is stored once. Nothing in a file is
trusted, and no pickle is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torchkit.data.problems import Report, stop
from torchkit.data.validation_set.base import ValidationSet, check_name
from torchkit.data.validation_set.bin_file import load_bin
from torchkit.data.validation_set.carray import load_carray, write_validation_set
from torchkit.data.validation_set.image_folder import PAIRS_NAME, load_image_folder
from torchkit.data.validation_set.npy import load_npy

__all__ = ["ValidationSet", "check_present", "load_validation_set", "read_validation_set", "write_validation_set"]

LOADERS: dict[str, Callable[[Path, str, Report], ValidationSet | None]] = {
    "{}/meta": load_carray,
    "{}.bin": load_bin,
    f"{{}}/{PAIRS_NAME}": load_image_folder,
    "{}.npy": load_npy,
}
"""The file that marks a form -> its reader, in the order in which forms are tried."""
PUBLISHED_TOGETHER = ["{}/meta", "{}.bin"]


def load_validation_set(root: Path, name: str) -> ValidationSet:
    """Read the set `name` from `root`, in whichever form exists.

    Raises:
        FileNotFoundError: the set exists in no form, or its list or an image is missing.
        ValueError: the set exists in two forms, a file does not have the content of its form, or the name is not a
            plain file name.
    """
    validation_set = read_validation_set(root, name, stop)
    assert validation_set is not None  # `stop` raises
    return validation_set


def read_validation_set(root: Path, name: str, report: Report) -> ValidationSet | None:
    """Like `load_validation_set`, but report each wrong row, line or image and continue with the others.

    Returns:
        The set, or None when something was reported.

    Raises:
        FileNotFoundError, ValueError: the set as a whole cannot be read.
    """
    root = Path(root)
    check_present(root, [name])
    return LOADERS[_form(root, name)](root, name, report)


def check_present(root: Path, names: Sequence[str]) -> None:
    """Check, before long work, that every set exists in one form.

    Raises:
        FileNotFoundError: a set does not exist; names all missing ones and the paths that were tried.
        ValueError: a name is not a plain file name, or a set exists in two forms.
    """
    for name in names:
        check_name(name)
    missing = [name for name in names if not _form(Path(root), name)]
    if not missing:
        return
    looked = "; ".join(
        f"{root / name}/ (bcolz with {name}_list.npy beside it, or images with {PAIRS_NAME}), {root / name}.bin, "
        f"{root / name}.npy with {name}_list.npy"
        for name in missing
    )
    raise FileNotFoundError(
        f"no validation set {', '.join(map(repr, missing))}: looked for {looked}. lfw, cfp_fp, agedb_30, calfw and "
        "cplfw come with the data packages of AdaFace and InsightFace: put them under Data/validation, or name the "
        "folder that has them; see Data/README.md"
    )


def _form(root: Path, name: str) -> str:
    """Return the mark of the form in which a set exists; "" for none."""
    forms = [mark for mark in LOADERS if (root / mark.format(name)).exists()]
    if forms == PUBLISHED_TOGETHER or len(forms) == 1:
        return forms[0]
    if forms:
        marks = " and ".join(str(root / mark.format(name)) for mark in forms)
        raise ValueError(f"validation set {name!r} is there in several forms: {marks}; keep one of them")
    if (root / name).is_dir():
        raise ValueError(
            f"{root / name} is neither a bcolz carray (meta/ is missing) nor a folder of images with {PAIRS_NAME}; "
            "see Data/README.md"
        )
    return ""

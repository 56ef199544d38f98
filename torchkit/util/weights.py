"""Read and write weight files. Nothing in a file is ever executed.

`load_weights_file` reads what `torch.save` wrote: first with `weights_only=True`, then, for archives whose pickle
also names classes that only hold settings (Lightning checkpoints, such as AdaFace's), with an unpickler that builds
tensors and plain containers, and replaces objects of such classes by inert placeholders.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchkit.util.files import atomic_write_bytes

# Packages whose classes appear in published checkpoints as settings. They are never imported.
SETTINGS_PACKAGES = (
    "pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics", "omegaconf", "argparse",
    "numpy", "pathlib",
)  # fmt: skip
# The function by which an old pickle writes the bytes of a NumPy scalar.
NUMPY_SCALAR_BYTES = ("_codecs", "encode")
TENSOR_BUILDERS = {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter"}
ZIP_MAGIC = b"PK\x03\x04"


class _Placeholder:
    """Stands for an object of a class that is not loaded, and ignores whatever the pickle passes to it."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...


class _Builder:
    """A function that a pickle may call. It could set attributes of the function itself, but not of this."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Tensor]) -> None:
        self._build = build

    def __call__(self, *args: Any) -> Tensor:
        return self._build(*args)


class RestrictedUnpickler(pickle._Unpickler):
    """Builds tensors, containers and placeholders; refuses every other global by name.

    A pickle may set attributes, so nothing that it gets is shared with the rest of the program. It is the unpickler
    written in Python, because the one in C lets a few bytes allocate all memory. `torch.load` itself replaces the
    storage classes.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in TENSOR_BUILDERS:
            return _Builder(getattr(torch._utils, name))
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if module.split(".")[0] in SETTINGS_PACKAGES or (module, name) == NUMPY_SCALAR_BYTES:
            return _Placeholder
        raise pickle.UnpicklingError(f"names {module}.{name}, which is no tensor and would be executed; refused")


def _restricted_load(file: Any, **options: Any) -> Any:
    return RestrictedUnpickler(file, **options).load()


_RESTRICTED_PICKLE = types.SimpleNamespace(
    __name__="restricted_pickle", Unpickler=RestrictedUnpickler, load=_restricted_load
)


def load_weights_file(path: Path, what: str = "checkpoint") -> Any:
    """Contents of a `torch.save` file, on the CPU, without executing anything from it.

    Args:
        path: the file.
        what: name of the file's kind in messages, e.g. "server checkpoint".

    Raises:
        FileNotFoundError: no such file.
        ValueError: torn, not a `torch.save` file, or a file that names code to execute.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{what} not found: {path}; see model/README.md for where to get it")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # the pickle names other classes than tensors; decided below, by name
        if not _is_archive(path):  # the loader of the old format writes files if a pickle asks for it
            raise _unreadable(path, what, ValueError("it is neither an archive nor a plain state dict")) from error
    except Exception as error:  # whatever a torn file can cause
        raise _unreadable(path, what, error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RESTRICTED_PICKLE)
    except Exception as error:  # whatever a hostile or torn file can cause
        raise _unreadable(path, what, error) from error


def _is_archive(path: Path) -> bool:
    """Whether `torch.load` takes the file for a zip archive."""
    with path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def _unreadable(path: Path, what: str, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"{what} {path} cannot be read: {reason}. Get it again, or check that it is a PyTorch file.")


def state_dict_of(contents: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in a loaded file: all of it, or its `state_dict` without the prefix `model.`.

    Of a Lightning checkpoint only the entries under `model.` count: the others (AdaFace's head) are not the network.
    """
    if isinstance(contents, dict) and isinstance(contents.get("state_dict"), dict):
        contents = contents["state_dict"]
        prefix = "model."
        if any(str(key).startswith(prefix) for key in contents):
            contents = {key[len(prefix) :]: value for key, value in contents.items() if str(key).startswith(prefix)}
    if not isinstance(contents, dict) or not contents or not all(isinstance(v, Tensor) for v in contents.values()):
        raise ValueError(f"{path} holds no state dict: expected names with tensors, or those under 'state_dict'")
    return dict(contents)


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """Copy a module's state to the CPU, contiguous: 1x1 convolutions would keep the strides of channels-last."""
    return {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in module.state_dict().items()
    }


def load_state(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load `state` into `module`, exactly; the error names the first key that does not fit.

    Raises:
        ValueError: a missing, surplus or wrongly shaped entry, or one with values that are not finite.
    """
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{where}: {key} is no tensor, but {type(value).__name__}; the file is damaged")
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in own]
    for key, tensor in own.items():
        if key in state and state[key].shape != tensor.shape:
            have, want = tuple(state[key].shape), tuple(tensor.shape)
            raise ValueError(f"{where}: {key} has shape {have}, expected {want}; is it for another network?")
    if missing or surplus:
        key, kind = (missing[0], "lacks") if missing else (surplus[0], "has the unknown")
        raise ValueError(
            f"{where} {kind} key {key!r} ({len(missing)} missing, {len(surplus)} unknown in all); "
            "is it for another network?"
        )
    for key, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{where}: {key} holds NaN or infinite values; the file is damaged")
    try:
        module.load_state_dict(state, strict=False)
    except ValueError as error:  # a module's own objection, e.g. to a key
        raise ValueError(f"{where}: {error}") from error


def save_weights_file(path: Path, contents: Any) -> None:
    """Write `contents` with `torch.save` to `path`, whole or not at all; equal contents give equal bytes."""
    buffer = io.BytesIO()  # torch.save writes a path's name into the archive, but not a buffer's
    torch.save(_canonical(contents), buffer)
    atomic_write_bytes(path, buffer.getvalue())


def _canonical(value: Any) -> Any:
    """Copy `value` into new containers, equal strings as one object: pickle writes a repeated object as a reference."""
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_canonical, value))
    return value

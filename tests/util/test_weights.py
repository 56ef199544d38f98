"""Weight files: nothing in them is executed, damage is one clear error, and they are read and written exactly."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from torchkit.backbone import get_model
from torchkit.server import load_recogniser
from torchkit.util.weights import load_state, load_weights_file, save_weights_file, state_dict_of

STATE = {"weight": torch.arange(12.0).view(3, 4), "bias": torch.arange(3.0), "count": torch.tensor(7)}


@pytest.fixture
def lightning() -> Iterator[types.SimpleNamespace]:
    """Classes with the module names of PyTorch Lightning, which pickle can find only during the test."""

    class ModelCheckpoint:
        def __init__(self) -> None:
            self.best = 0.5

    class AttributeDict(dict):  # type: ignore[type-arg]
        pass

    class Stages(list):  # type: ignore[type-arg]
        pass

    places = {
        ModelCheckpoint: "pytorch_lightning.callbacks.model_checkpoint",
        AttributeDict: "pytorch_lightning.utilities.parsing",
        Stages: "lightning_fabric.utilities",
    }
    known = dict(sys.modules)
    for cls, name in places.items():
        cls.__module__, cls.__qualname__ = name, cls.__name__
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
        setattr(sys.modules[name], cls.__name__, cls)
    yield types.SimpleNamespace(ModelCheckpoint=ModelCheckpoint, AttributeDict=AttributeDict, Stages=Stages)
    for name in set(sys.modules) - set(known):
        if name.split(".")[0] in ("pytorch_lightning", "lightning_fabric"):
            del sys.modules[name]


def forget_lightning() -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("pytorch_lightning", "lightning_fabric")]:
        del sys.modules[name]


def lightning_contents(classes: types.SimpleNamespace, weights: dict[str, Tensor]) -> dict[str, Any]:
    """What Lightning saves of a run with AdaFace: network and head in one state dict, and objects of its own."""
    return {
        "epoch": 25,
        "pytorch-lightning_version": "1.4.4",
        "callbacks": {classes.ModelCheckpoint: {"best_model_score": torch.tensor(0.9), "dirpath": "runs"}},
        "more_callbacks": [classes.ModelCheckpoint()],
        "hyper_parameters": classes.AttributeDict(lr=0.1, milestones=classes.Stages([12, 20]), seed=None),
        "arguments": argparse.Namespace(arch="ir_101", root=Path("data"), rate=np.float64(0.1)),
        "state_dict": OrderedDict(
            [(f"model.{key}", tensor) for key, tensor in weights.items()]
            + [("head.kernel", torch.randn(4, 5)), ("head.batch_mean", torch.ones(1))]
        ),
    }


def saved(path: Path, contents: Any, archive: bool = True) -> Path:
    torch.save(contents, path, _use_new_zipfile_serialization=archive)
    return path


# What is read


def test_lightning_checkpoint_gives_the_network_without_prefix_and_head(
    lightning: types.SimpleNamespace, tmp_path: Path
) -> None:
    path = saved(tmp_path / "run.ckpt", lightning_contents(lightning, STATE))
    forget_lightning()
    with pytest.raises(pickle.UnpicklingError):  # the reason for a reader of our own
        torch.load(path, weights_only=True)

    state = state_dict_of(load_weights_file(path), path)

    assert list(state) == list(STATE)
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)
    assert not any(name.split(".")[0] == "pytorch_lightning" for name in sys.modules)


def test_recogniser_loads_a_lightning_checkpoint(lightning: types.SimpleNamespace, tmp_path: Path) -> None:
    network = get_model("mobilefacenet")
    network(torch.rand(8, 3, 112, 112))  # gives the batch norms statistics
    network.eval()
    path = saved(tmp_path / "run.ckpt", lightning_contents(lightning, network.state_dict()))
    forget_lightning()
    recogniser = load_recogniser("mobilefacenet", path)
    x = torch.rand(1, 3, 112, 112)
    torch.testing.assert_close(recogniser.backbone(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("archive", [True, False])
def test_plain_state_dict_of_either_format(tmp_path: Path, archive: bool) -> None:
    weights = {**STATE, "half": torch.ones(2, dtype=torch.float16), "parameter": nn.Parameter(torch.ones(2))}
    path = saved(tmp_path / "plain.pth", weights, archive)
    state = state_dict_of(load_weights_file(path), path)
    assert all(torch.equal(state[key], weights[key]) and state[key].dtype == weights[key].dtype for key in weights)


def test_state_dict_without_the_prefix_is_taken_as_it_is(tmp_path: Path) -> None:
    assert state_dict_of({"state_dict": STATE, "epoch": 3}, tmp_path).keys() == STATE.keys()


@pytest.mark.parametrize(
    "contents",
    [{}, [1, 2], 5, {"a": 1}, {"state_dict": {}}, {"state_dict": 3}, {"state_dict": {1: 2}}, {"a": [torch.ones(1)]}],
    ids=str,
)
def test_anything_else_is_no_state_dict(contents: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"net\.pth holds no state dict"):
        state_dict_of(contents, tmp_path / "net.pth")


def test_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"server checkpoint not found: .*gone\.pth.*model/README\.md"):
        load_weights_file(tmp_path / "gone.pth", "server checkpoint")


# What is not executed


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


HOSTILE: dict[str, Callable[[str], Call]] = {
    "os.system": lambda marker: Call(os.system, f"touch {marker}"),
    "eval": lambda marker: Call(eval, f"open({marker!r}, 'w')"),
    "exec": lambda marker: Call(exec, f"open({marker!r}, 'w')"),
    "getattr": lambda marker: Call(getattr, "text", "upper"),
    "open": lambda marker: Call(open, marker, "w"),
    "torch.save": lambda marker: Call(torch.save, {}, marker),
    "torch.load": lambda marker: Call(torch.load, marker),
    "torch.hub": lambda marker: Call(torch.hub.download_url_to_file, "file:///etc/hostname", marker),
    "_load_from_bytes": lambda marker: Call(torch.storage._load_from_bytes, nested_pickle(marker)),
    "from_file": lambda marker: Call(torch.from_file, marker, True, 8),
    "os.mkdir": lambda marker: Call(os.mkdir, marker),
}


def nested_pickle(marker: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(Call(os.system, f"touch {marker}"), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old format"])
@pytest.mark.parametrize("with_settings", [True, False], ids=["with settings", "bare"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_call_in_a_file_is_refused_and_not_made(
    lightning: types.SimpleNamespace, tmp_path: Path, kind: str, with_settings: bool, archive: bool
) -> None:
    marker = tmp_path / "marker"
    contents: dict[str, Any] = {"settings": lightning.ModelCheckpoint()} if with_settings else {}
    contents |= {"call": HOSTILE[kind](str(marker)), "state_dict": STATE}
    path = saved(tmp_path / "hostile.ckpt", contents, archive)
    forget_lightning()
    with pytest.raises(ValueError, match=r"hostile\.ckpt cannot be read"):
        load_weights_file(path)
    assert not marker.exists()


def test_message_names_what_the_file_asks_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "hostile.ckpt", Call(os.system, "true"))
    with pytest.raises(ValueError, match=rf"names {os.system.__module__}\.system.*refused"):
        load_weights_file(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*TorchScript")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)
    with pytest.raises(ValueError, match=r"script\.pt cannot be read"):
        load_weights_file(path)


# Hand-written pickles


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + pickle.STACK_GLOBAL


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def attributes_set(thing: bytes, **values: bytes) -> bytes:
    """BUILD with a slot state: setattr for each of `values`."""
    items = b"".join(text(key) + value + pickle.SETITEM for key, value in values.items())
    return thing + pickle.NONE + pickle.EMPTY_DICT + items + pickle.TUPLE2 + pickle.BUILD


def number(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, "little", signed=True)


SETTINGS = named("argparse", "Namespace") + pickle.POP  # makes `weights_only` give up


def archive_of(path: Path, body: bytes) -> Path:
    """A `torch.save` archive with this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.PROTO + b"\x02" + SETTINGS + body + pickle.STOP)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
    return path


def old_format_of(path: Path, body: bytes) -> Path:
    """A file in the format before archives, with this pickle."""
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC_NUMBER, PROTOCOL_VERSION, {}))
    path.write_bytes(head + pickle.PROTO + b"\x02" + SETTINGS + body + pickle.STOP + pickle.dumps([], 2))
    return path


def test_hand_written_archive_is_read(tmp_path: Path) -> None:
    """The tests below must fail to load for what they ask, not for how they are written."""
    body = call(named("collections", "OrderedDict")) + text("key") + number(5) + pickle.SETITEM
    assert load_weights_file(archive_of(tmp_path / "plain.pt", body)) == {"key": 5}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.storage", "UntypedStorage.from_file"),
        ("torch", "UntypedStorage.from_file"),
        ("torch.storage", "os.systemStorage"),
        ("torch", "serialization.os.system"),
        ("torch", "storage._warn_typed_storage_removal"),
        ("torch", "_utils._rebuild_tensor"),
        ("torch.storage", "_load_from_bytesStorage"),
        ("torch.storage", "TypedStorage"),
        ("torch.storage", "_LegacyStorage"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch._utils", "_import_dotted_name"),
        ("torch._utils", "_rebuild_from_type_v2"),
        ("torch._utils", "_rebuild_wrapper_subclass"),
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "namedtuple"),
        ("torch", "float32.__class__"),
        ("torch", "Size.__new__"),
        ("pytorch_lightningx", "run"),
        ("os", "system"),
        ("torchkit.util.weights", "_Placeholder"),
        ("", "eval"),
    ],
)
def test_no_other_name_gets_through(tmp_path: Path, module: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"names .*refused"):
        load_weights_file(archive_of(tmp_path / "names.pt", named(module, name)))


@pytest.mark.parametrize("module", ["argparse", "argparse._os", "pytorch_lightning.os", "lightning"])
def test_names_of_settings_packages_are_inert(tmp_path: Path, module: str) -> None:
    marker = tmp_path / "marker"
    body = call(named(module, "system"), text(f"touch {marker}"))
    body += pickle.MARK + number(1) + pickle.APPENDS + text("key") + number(1) + pickle.SETITEM
    body += pickle.EMPTY_DICT + pickle.BUILD
    load_weights_file(archive_of(tmp_path / "settings.pt", body))
    assert not marker.exists() and "pytorch_lightning" not in sys.modules


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch.storage", "UntypedStorage"),
        ("torch", "FloatStorage"),
        ("torch", "Size"),
        ("torch", "float32"),
        ("collections", "OrderedDict"),
        ("argparse", "Namespace"),
    ],
)
@pytest.mark.parametrize("write", [archive_of, old_format_of])
def test_a_file_cannot_change_what_it_names(
    tmp_path: Path, write: Callable[[Path, bytes], Path], module: str, name: str
) -> None:
    real = getattr(sys.modules[module], name)
    before = {key: getattr(real, key, None) for key in ("__name__", "__defaults__", "dump_patches", "__init__")}
    body = attributes_set(
        named(module, name), __name__=text("other"), __defaults__=pickle.NONE, dump_patches=pickle.NEWTRUE
    )
    with contextlib.suppress(ValueError):  # what it gets may be a stand-in that belongs to the file alone
        load_weights_file(write(tmp_path / "change.pt", body))
    assert {key: getattr(real, key, None) for key in before} == before


@pytest.mark.parametrize(
    "thing",  # what the file gives as the class of a module
    [
        named("torch._utils", "_rebuild_tensor"),
        named("torch.storage", "TypedStorage"),
        named("torch", "FloatStorage"),
        named("argparse", "Namespace"),
        call(named("argparse", "Namespace")),
    ],
    ids=["builder", "storage", "stand-in", "placeholder", "its instance"],
)
def test_the_old_format_cannot_write_source_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thing: bytes
) -> None:
    """The old format's loader compares the sources of modules, and writes a file if the class says so."""
    monkeypatch.chdir(tmp_path)
    changed = attributes_set(thing, dump_patches=pickle.NEWTRUE, __name__=text(str(tmp_path / "written")))
    for module in (thing, changed):
        identity = pickle.MARK + text("module") + module + text("file.py") + text("source") + pickle.TUPLE
        path = old_format_of(tmp_path / "patch.pt", identity + pickle.BINPERSID)
        with pytest.raises(ValueError, match="cannot be read"):
            load_weights_file(path)
    assert [file.name for file in tmp_path.iterdir()] == ["patch.pt"]


BUILDERS = ["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"]
ARGUMENTS: dict[str, list[bytes]] = {
    "none": [],
    "numbers": [number(n) for n in range(6)],
    "text": [text("os.system")] * 6,
    "settings": [call(named("argparse", "Namespace"))] * 6,
    "classes": [named("torch", "FloatStorage")] * 6,
    "builders": [named("torch._utils", "_rebuild_tensor")] * 6,
    "huge": [named("torch", "FloatStorage"), number(0)] + [pickle.MARK + number(2**31 - 1) * 3 + pickle.TUPLE] * 2,
    "negative": [named("torch", "FloatStorage"), number(-5)] + [pickle.MARK + number(-3) + pickle.TUPLE] * 2,
}


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_builders_with_hostile_arguments_are_an_error(tmp_path: Path, builder: str, arguments: str) -> None:
    body = call(named("torch._utils", builder), *ARGUMENTS[arguments])
    try:
        contents = load_weights_file(archive_of(tmp_path / "builder.pt", body))
    except ValueError as error:
        assert "cannot be read" in str(error)
    else:
        pytest.fail(f"built {contents!r}")


@pytest.mark.parametrize(
    ("offset", "size", "stride"), [(0, (1000,), (1,)), (-4, (2,), (1,)), (3, (2,), (10,)), (0, (2,), (-1,))]
)
def test_tensor_cannot_look_outside_its_storage(
    lightning: types.SimpleNamespace, tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    class Outside:
        def __reduce__(self) -> Any:
            storage = torch.storage.TypedStorage(
                wrap_storage=torch.ones(4).untyped_storage(), dtype=torch.float32, _internal=True
            )
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, OrderedDict())

    path = saved(tmp_path / "outside.ckpt", {"settings": lightning.ModelCheckpoint(), "tensor": Outside()})
    forget_lightning()
    try:
        found = load_weights_file(path)["tensor"]
    except ValueError as error:
        assert "cannot be read" in str(error)
    else:
        needed = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
        assert min(offset, *stride) >= 0 and found.untyped_storage().nbytes() >= 4 * needed


@pytest.mark.parametrize("opcode", [pickle.LONG_BINPUT, pickle.LONG_BINGET])
def test_a_large_memo_index_does_not_allocate(tmp_path: Path, opcode: bytes) -> None:
    """Python's fast unpickler makes a table of this length: 32 GB for five bytes."""
    path = archive_of(tmp_path / "memo.pt", number(1) + opcode + b"\xff\xff\xff\x7f")
    try:
        assert load_weights_file(path) == 1
    except ValueError as error:
        assert opcode == pickle.LONG_BINGET and "cannot be read" in str(error)


# Damage


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old format"])
@pytest.mark.parametrize("with_settings", [True, False], ids=["with settings", "bare"])
def test_torn_file_is_an_error_wherever_it_ends(
    lightning: types.SimpleNamespace, tmp_path: Path, with_settings: bool, archive: bool
) -> None:
    contents = lightning_contents(lightning, STATE) if with_settings else STATE
    data = saved(tmp_path / "whole.ckpt", contents, archive).read_bytes()
    forget_lightning()
    path = tmp_path / "torn.ckpt"
    for end in [*range(0, len(data), max(1, len(data) // 80)), *range(len(data) - 20, len(data))]:
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"torn\.ckpt cannot be read: .+ Get it again"):
            load_weights_file(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old format"])
@pytest.mark.parametrize("with_settings", [True, False], ids=["with settings", "bare"])
def test_flipped_bits_are_read_or_an_error(
    lightning: types.SimpleNamespace, tmp_path: Path, with_settings: bool, archive: bool
) -> None:
    contents = lightning_contents(lightning, STATE) if with_settings else STATE
    data = saved(tmp_path / "whole.ckpt", contents, archive).read_bytes()
    forget_lightning()
    path = tmp_path / "flipped.ckpt"
    for position in range(7, len(data), max(1, len(data) // 120)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            load_weights_file(path)
        except ValueError as error:
            assert "flipped.ckpt cannot be read" in str(error)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"hello, world\n", b"PK\x03\x04", b"\x80\x02.", b"version https://git-lfs"]
)
def test_other_files_are_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"client file .*other\.pth cannot be read"):
        load_weights_file(path, "client file")


# What must fit


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_fitting_state_is_loaded() -> None:
    donor, module = network(), network()
    load_state(module, donor.state_dict(), "file")
    assert all(torch.equal(tensor, donor.state_dict()[key]) for key, tensor in module.state_dict().items())


def test_counters_of_batch_norms_may_be_missing() -> None:
    donor, module = network(), network()
    state = {key: tensor for key, tensor in donor.state_dict().items() if not key.endswith("num_batches_tracked")}
    load_state(module, state, "file")
    assert torch.equal(module[0].weight, donor[0].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2.weight": torch.zeros(2, 5), "2.bias": torch.zeros(9)}, r"2\.weight has shape \(2, 5\), expected \(2, 4\)"),
        ({"0.weight": torch.full((4, 3), torch.nan)}, r"0\.weight holds NaN"),
        ({"1.running_var": torch.full((4,), torch.inf)}, r"1\.running_var holds NaN or infinite"),
        ({"extra": torch.zeros(1)}, r"has the unknown key 'extra' \(0 missing, 1 unknown"),
        ({"0.bias": None, "1.bias": None}, r"lacks key '0\.bias' \(2 missing, 0 unknown"),
        ({"0.bias": 3}, r"0\.bias is no tensor"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(change: dict[str, Any], message: str) -> None:
    module = network()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    state: dict[str, Any] = {**network().state_dict(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(ValueError, match=message) as error:
        load_state(module, state, "file.pth")
    assert str(error.value).startswith("file.pth")
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


# What is written


def test_equal_contents_give_equal_bytes_under_any_name(tmp_path: Path) -> None:
    names = ["a.pth", "another name.pt", "folder/client.ckpt"]
    for name in names:
        contents = {"b": torch.arange(6.0).view(2, 3).clone(), "a": [1, "x", None], "s": torch.ones(())}
        save_weights_file(tmp_path / name, contents)
    first, *others = ((tmp_path / name).read_bytes() for name in names)
    assert all(other == first for other in others)
    save_weights_file(tmp_path / "changed", {"b": torch.zeros(2, 3), "a": [1, "x", None], "s": torch.ones(())})
    assert (tmp_path / "changed").read_bytes() != first


def test_bytes_do_not_depend_on_which_equal_strings_are_one_object(tmp_path: Path) -> None:
    once = "bgr"
    again = "".join(["b", "g", "r"])
    assert once is not again
    for name, second in (("shared", once), ("separate", again)):
        contents = {"one": once, "others": [second, (second, 1)], again if name == "shared" else once: {second: None}}
        save_weights_file(tmp_path / name, contents)
    assert (tmp_path / "shared").read_bytes() == (tmp_path / "separate").read_bytes()


def test_written_file_reads_back(tmp_path: Path) -> None:
    plain = {"n": 3, "s": "text", "l": [1, (2.5, None), {"x": True}], "o": OrderedDict(b=1, a=2), 7: b"raw"}
    save_weights_file(tmp_path / "a.pth", {**plain, "t": STATE})
    found = load_weights_file(tmp_path / "a.pth")
    tensors = found.pop("t")
    assert found == plain and list(found["o"]) == ["b", "a"]
    assert all(torch.equal(tensors[key], STATE[key]) for key in STATE)

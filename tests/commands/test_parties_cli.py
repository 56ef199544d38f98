"""python -m torchkit.client and python -m torchkit.server: images to messages to embeddings, file by file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from parties import BOTH, trained_client, whole_system, write_files

import torchkit.commands.client as client_command
import torchkit.commands.server as server_command
from torchkit.client import ClientSettings
from torchkit.client.encoder import Encoder, fingerprint
from torchkit.obfuscation import EVALUATION_SEED
from torchkit.payload import decode, encode
from torchkit.system import (
    MODEL_ROOT,
    ServerReference,
    find_checkpoint,
    load_client_file,
    load_server_file,
    save_phone_file,
)
from torchkit.system.observation import ObservedFace, ObservedFaces
from torchkit.util.cli import run_command
from torchkit.util.pixels import to_batch
from validation.config import Settings

ROOT = Path(__file__).resolve().parents[2]
TREE = ("a.png", "b/c d.bmp", "b/e.webp", "f.PNG")  # in the order in which they are worked on
SEED = Settings().seed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_image: Callable[[int], np.ndarray]) -> Path:
    """A folder with the files of `write_files`, four images under faces/ and their messages under messages/."""
    made = tmp_path_factory.mktemp("commands")
    write_files(made)
    (made / "faces/b").mkdir(parents=True)
    for seed, name in enumerate(TREE):
        write_image(made / "faces" / name, make_image(seed))
    (made / "faces/notes.txt").write_text("no image")
    (made / "faces/.hidden.png").write_bytes(b"no image either")
    call(client_command, "encode", made / "faces", "-m", made / "phone.pth", "-o", made / "messages")
    return made


def write_image(path: Path, image: np.ndarray) -> None:
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if path.suffix == ".webp" else []  # 101: without loss
    assert cv2.imwrite(str(path), image[..., ::-1], options)


def call(command: ModuleType, *arguments: object) -> None:
    """Run a command in this process, as its `__main__` does."""
    parsed = command.parse_arguments([str(argument) for argument in arguments])
    run_command(lambda: parsed.run(parsed), parsed.traceback)


def refused(capsys: pytest.CaptureFixture[str], command: ModuleType, *arguments: object) -> str:
    """What a command says on stderr that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        call(command, *arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def expected_embeddings(folder: Path, faces: list[np.ndarray], kind: str = "hybrid") -> np.ndarray:
    """What validation makes of the images, in one batch."""
    clear = to_batch(faces)
    obfuscated = [item[1][0] for item in _items(ObservedFaces(clear.numpy(), (kind,), SEED))]
    with torch.inference_mode():
        system = whole_system(folder).to(memory_format=torch.channels_last)
        return system(clear, torch.stack(obfuscated)).numpy()


def _items(data: ObservedFaces) -> list[ObservedFace]:
    return [data[position] for position in range(len(data))]


# Both commands together


def test_the_real_commands_give_the_embedding_of_validation(
    folder: Path, tmp_path: Path, make_image: Callable[[int], np.ndarray]
) -> None:
    """Two processes, each with the file of its party; to the bit, for both compute the same batch."""
    for party in ("phone", "cloud"):
        (tmp_path / party).mkdir()
    shutil.copytree(folder / "faces", tmp_path / "phone/faces")
    shutil.copy(folder / "phone.pth", tmp_path / "phone")
    shutil.copy(folder / "server.pth", tmp_path / "cloud")
    out = run(tmp_path / "phone", "torchkit.client", "encode", "faces", "-m", "phone.pth", "-o", "../cloud/messages")
    assert "4 written, 0 were there already" in out
    out = run(tmp_path / "cloud", "torchkit.server", "embed", "messages", "--model", "server.pth", "-o", "embeddings")
    assert "4 written, 0 were there already" in out
    expected = expected_embeddings(folder, [make_image(seed) for seed in range(4)])
    for name, embedding in zip(TREE, expected, strict=True):
        found = np.load((tmp_path / "cloud/embeddings" / name).with_suffix(".npy"), allow_pickle=False)
        assert found.dtype == np.float32 and found.shape == (512,)
        np.testing.assert_array_equal(found, embedding)


def run(folder: Path, module: str, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_other_batch_sizes_give_the_same_embedding(folder: Path, tmp_path: Path) -> None:
    """Up to the order in which the recogniser's last layer adds up."""
    small = tmp_path / "messages"
    call(client_command, "encode", folder / "faces", "-m", folder / "client.pth", "-o", small, "--batch-size", 3)
    call(server_command, "embed", small, "-m", folder / "server.pth", "-o", tmp_path / "out", "--batch-size", 1)
    call(server_command, "embed", folder / "messages", "-m", folder / "server.pth", "-o", tmp_path / "whole")
    names = files_under(tmp_path / "whole")
    assert files_under(tmp_path / "out") == names == sorted(str(Path(name).with_suffix(".npy")) for name in TREE)
    for name in names:
        np.testing.assert_allclose(np.load(tmp_path / "out" / name), np.load(tmp_path / "whole" / name), atol=1e-6)


def test_one_file_becomes_one_file(folder: Path, tmp_path: Path, make_image: Callable[[int], np.ndarray]) -> None:
    message, embedding = tmp_path / "new/face.pfc", tmp_path / "face.npy"
    call(
        client_command, "encode", folder / "faces/a.png", "-m", folder / "phone.pth", "-o", message,
        "--obfuscation", "median",
    )  # fmt: skip
    call(server_command, "embed", message, "--model", folder / "server.pth", "-o", embedding)
    expected = expected_embeddings(folder, [make_image(0)], "median")
    np.testing.assert_array_equal(np.load(embedding), expected[0])


# encode


def test_images_are_obfuscated_as_in_validation(folder: Path, make_image: Callable[[int], np.ndarray]) -> None:
    data = ObservedFaces(to_batch([make_image(seed) for seed in range(4)]).numpy(), ("hybrid",), SEED)
    for name, (_, obfuscated, _) in zip(TREE, _items(data), strict=True):
        payload = decode((folder / "messages" / name).with_suffix(".pfc").read_bytes())
        assert np.array_equal(payload.image.pixels.transpose(2, 0, 1), obfuscated[0].numpy())
    assert EVALUATION_SEED == SEED


def test_another_seed_draws_other_cells(folder: Path, tmp_path: Path) -> None:
    call(client_command, "encode", folder / "faces", "-m", folder / "phone.pth", "-o", tmp_path, "--seed", SEED + 1)
    for name in TREE:
        own, other = ((root / name).with_suffix(".pfc").read_bytes() for root in (folder / "messages", tmp_path))
        assert not np.array_equal(decode(own).image.pixels, decode(other).image.pixels)


def test_what_is_there_stays_unless_it_is_to_be_overwritten(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "messages", tmp_path / "messages")
    (tmp_path / "messages/a.pfc").write_bytes(b"kept")
    (tmp_path / "messages/f.pfc").unlink()
    again = ["encode", folder / "faces", "-m", folder / "phone.pth", "-o", tmp_path / "messages"]
    call(client_command, *again)
    assert "1 written, 3 were there already" in capsys.readouterr().out
    assert (tmp_path / "messages/a.pfc").read_bytes() == b"kept"
    assert (tmp_path / "messages/f.pfc").read_bytes() == (folder / "messages/f.pfc").read_bytes()
    call(client_command, *again, "--overwrite")
    assert "4 written, 0 were there already" in capsys.readouterr().out
    assert (tmp_path / "messages/a.pfc").read_bytes() == (folder / "messages/a.pfc").read_bytes()


def test_broken_images_are_named_and_the_others_encoded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = tmp_path / "faces"
    shutil.copytree(folder / "faces", faces)
    (faces / "a.png").write_bytes((faces / "a.png").read_bytes()[:500])
    (faces / "b/c d.bmp").write_bytes(b"BM and nothing else")
    write_image(faces / "f.PNG", np.zeros((112, 100, 3), np.uint8))
    arguments = ["encode", faces, "-m", folder / "phone.pth", "-o", tmp_path / "out", "--batch-size", 2]
    said = refused(capsys, client_command, *arguments)
    for reason in ("a.png is cut off", "c d.bmp cannot be decoded", "f.PNG is 100x112, expected an aligned 112x112"):
        assert reason in said
    assert "error: 3 of 4 files could not be used, see above; 1 written" in said
    assert files_under(tmp_path / "out") == ["b/e.pfc"]
    said = refused(capsys, client_command, "encode", faces / "a.png", *arguments[2:4], "-o", tmp_path / "a.pfc")
    assert said.splitlines()[-1].startswith(f"error: {faces / 'a.png'} is cut off")
    assert not (tmp_path / "a.pfc").exists()


def test_images_that_would_become_one_message(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "faces", tmp_path / "faces")
    shutil.copy(folder / "faces/a.png", tmp_path / "faces/a.bmp")
    arguments = ["encode", tmp_path / "faces", "-m", folder / "phone.pth", "-o", tmp_path / "out"]
    assert "a.bmp and " in (said := refused(capsys, client_command, *arguments))
    assert "a.png would both become" in said
    assert not (tmp_path / "out").exists()


def test_paths_that_do_not_fit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    phone, faces, out = folder / "phone.pth", folder / "faces", tmp_path / "out"
    cases = {
        "gone not found; give a file or a folder": [tmp_path / "gone", "-m", phone, "-o", out],
        "holds no file that ends with .jpg, .jpeg": [tmp_path / "empty", "-m", phone, "-o", out],
        "is a folder, but": [faces / "a.png", "-m", phone, "-o", tmp_path],
        "is the file that is to be read": [faces / "a.png", "-m", phone, "-o", faces / "a.png", "--overwrite"],
        "is a file, but": [faces, "-m", phone, "-o", phone],
        "client file not found": [faces, "-m", tmp_path / "gone.pth", "-o", out],
        "server.pth is no client file": [faces, "-m", folder / "server.pth", "-o", out],
        "--batch-size: 0: expected a whole number of at least 1": [faces, "-m", phone, "-o", out, "--batch-size", 0],
        "device 'tpu' cannot be used": [faces, "-m", phone, "-o", out, "--device", "tpu"],
    }
    for message, arguments in cases.items():
        said = refused(capsys, client_command, "encode", *arguments)
        assert message in said
        assert "Traceback" not in said
    assert not out.exists()


# embed


def test_bad_messages_are_named_and_the_others_embedded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_image: Callable[[int], np.ndarray]
) -> None:
    messages = tmp_path / "messages"
    shutil.copytree(folder / "messages", messages)
    stranger = Encoder(trained_client(BOTH, key_seed=12))
    (messages / "a.pfc").write_bytes(encode(stranger([make_image(0)], [make_image(1)])[0]))
    damaged = bytearray((messages / "b/e.pfc").read_bytes())
    damaged[1000] ^= 1
    (messages / "b/e.pfc").write_bytes(damaged)
    with (messages / "f.pfc").open("wb") as file:
        file.truncate(2**40)  # takes no space; nobody must read it all
    arguments = ["embed", messages, "-m", folder / "server.pth", "-o", tmp_path / "out", "--batch-size", 3]
    said = refused(capsys, server_command, *arguments)
    for reason in ("a.pfc: the message is of client", "e.pfc: wrong checksum", "f.pfc: a message of 4194305 bytes"):
        assert reason in said
    assert stranger.fingerprint.hex() in said
    assert "error: 3 of 4 files could not be used, see above; 1 written" in said
    assert files_under(tmp_path / "out") == ["b/c d.npy"]
    said = refused(
        capsys, server_command, "embed", messages / "a.pfc", "-m", folder / "server.pth", "-o", tmp_path / "a.npy"
    )
    assert "understands client" in said
    assert not (tmp_path / "a.npy").exists()


def test_embed_needs_a_server_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, message in (("client.pth", "client.pth is no server file"), ("gone.pth", "server file not found")):
        said = refused(
            capsys, server_command, "embed", folder / "messages", "-m", folder / model, "-o", tmp_path / "out"
        )
        assert message in said


# export


def test_phone_file_of_a_client_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(client_command, "export", folder / "client.pth", "-o", tmp_path / "phone.pth")
    assert (tmp_path / "phone.pth").read_bytes() == (folder / "phone.pth").read_bytes()
    assert fingerprint(trained_client(BOTH)).hex() in capsys.readouterr().out
    call(client_command, "export", folder / "phone.pth", "-o", tmp_path / "again.pth")
    assert (tmp_path / "again.pth").read_bytes() == (folder / "phone.pth").read_bytes()


def test_server_file_of_a_client_file(folder: Path, tmp_path: Path) -> None:
    call(server_command, "export", folder / "client.pth", "-o", tmp_path / "server.pth")
    assert (tmp_path / "server.pth").read_bytes() == (folder / "server.pth").read_bytes()
    shutil.copy(folder / "server.ckpt", tmp_path / "other.ckpt")
    options = ["--server", "mobilefacenet", "--server-checkpoint", tmp_path / "other.ckpt", "--channel-order", "rgb"]
    call(server_command, "export", folder / "client.pth", *options, "-o", tmp_path / "rgb.pth")
    assert load_server_file(tmp_path / "rgb.pth").server.recogniser.channel_order == "rgb"


def test_server_export_says_what_is_wrong(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client, checkpoint = folder / "client.pth", ["--server-checkpoint", folder / "server.ckpt"]
    cases = {
        "holds no compensation weights": [folder / "phone.pth", *checkpoint],
        "no weights for the server mobilefacenet: looked at nowhere": [folder / "phone.pth"],
        "server checkpoint not found": [client, "--server-checkpoint", tmp_path / "gone.ckpt"],
        "is it for another network?": [client, "--server", "ir_18", *checkpoint],
        "is no client file": [folder / "server.pth"],
    }
    for message, arguments in cases.items():
        assert message in refused(capsys, server_command, "export", *arguments, "-o", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_checkpoint_is_where_the_client_file_says_or_under_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchkit.system.trained.MODEL_ROOT", tmp_path / "model")
    reference = ServerReference("ir_50", tmp_path / "trained/mine.ckpt")
    for folder in ("trained", "model"):
        (tmp_path / folder).mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"looked at .*trained/mine\.ckpt, .*model/mine\.ckpt, .*adaface_ir50_webface4m\.ckpt"
    ):
        find_checkpoint(reference, "ir_50")
    for place in (
        "model/adaface_ir50_webface4m.ckpt",
        "model/mine.ckpt",
        "trained/mine.ckpt",
    ):  # each before the one before it
        (tmp_path / place).touch()
        assert find_checkpoint(reference, "ir_50") == tmp_path / place
    with pytest.raises(FileNotFoundError, match="looked at nowhere"):  # another server than the file's
        find_checkpoint(reference, "ir_18")
    assert find_checkpoint(ServerReference(None, None), "ir_50") == tmp_path / "model/adaface_ir50_webface4m.ckpt"


def test_weights_are_looked_for_in_the_projects_folder() -> None:
    assert MODEL_ROOT == ROOT / "model" and MODEL_ROOT.is_dir()


def test_published_client_becomes_a_phone_file(tmp_path: Path) -> None:
    """Its settings are known, and its 784 permutations, of which it uses four, are not taken along."""
    shapes = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))
    client = trained_client(ClientSettings(shapes, layout="published", shuffle_block_px=28))
    state = {f"weight{tap}": torch.ones(shape) for tap, shape in enumerate(shapes, start=1)}
    for name, tensor in client.state_dict().items():
        module, _, rest = name.partition(".")
        if module == "backbone":
            state[f"client_backbone.{rest}"] = tensor
        elif module == "interfaces":
            tap, _, kind = rest.partition(".")
            state[f"interface_{int(tap) + 1}.1.{kind}"] = tensor
    state["channel_permutations"] = torch.arange(64).repeat(784, 1)
    state["channel_permutations"][:4] = client.shuffles["1"].key
    torch.save(state, tmp_path / "published.pth")
    call(client_command, "export", tmp_path / "published.pth", "-o", tmp_path / "phone.pth")
    save_phone_file(tmp_path / "own.pth", client, ServerReference(None, None, "rgb"), 0)
    assert (tmp_path / "phone.pth").read_bytes() == (tmp_path / "own.pth").read_bytes()
    assert load_client_file(tmp_path / "phone.pth").settings == client.settings


# Help


@pytest.mark.parametrize(
    ("command", "name", "example"),
    [
        (client_command, "encode", "encode faces/ -m phone.pth -o messages/"),
        (client_command, "export", "export runs/demo/client.pth -o phone.pth"),
        (client_command, "onnx", "onnx phone.pth -o client.onnx"),
        (server_command, "export", "export runs/demo/client.pth -o server.pth"),
        (server_command, "embed", "embed messages/ --model server.pth -o embeddings/"),
    ],
)
def test_help_teaches_by_example(
    command: ModuleType, name: str, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--help"], [name, "--help"]):
        with pytest.raises(SystemExit) as stop:
            command.parse_arguments(arguments)
        assert stop.value.code == 0
        assert f"python -m {command.__name__.replace('commands.', '')} {example}" in capsys.readouterr().out

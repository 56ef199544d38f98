"""Client and server apart: what one sends is what the other computes with, and neither holds what is the other's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parties import BOTH, BOTTLENECK, DIFFERENCE, FLOAT, PRUNED, QUANTISED, trained_client, whole_system, write_files
from torch import Tensor

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.client.calibrate import count_frequencies
from torchkit.client.encoder import Encoder, coding_of, fingerprint
from torchkit.payload import Payload, PayloadError, decode, encode
from torchkit.server import load_recogniser
from torchkit.server.decoder import Decoder, features_of
from torchkit.system import (
    ProFaceC,
    ServerReference,
    build_system,
    load_client_file,
    load_server_file,
    restore_client,
    save_client_file,
    save_server_file,
)
from torchkit.util.pixels import to_batch
from torchkit.util.weights import load_weights_file, save_weights_file

IR_SHAPES = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))
SETTINGS = {
    "float": FLOAT,
    "quantised": QUANTISED,
    "pruned": PRUNED,
    "both inputs, pruned and quantised": BOTH,
    "difference of two images": DIFFERENCE,
    "bottleneck": BOTTLENECK,
    "1 bit, pruned channels": replace(FLOAT, bits=(1,) * 4, pruned_channels=(0.5, 0.25, 0.75, 0.5)),
    "lossy image": replace(QUANTISED, image_quality=30),
    "published layout": ClientSettings(IR_SHAPES, layout="published", shuffle_block_px=28),
}
Images = tuple[list[np.ndarray], list[np.ndarray]]


@pytest.fixture(scope="module")
def images(make_image: Callable[[int], np.ndarray]) -> Images:
    """Three images, and three others in the place of obfuscated ones."""
    return [make_image(seed) for seed in (0, 1, 2)], [make_image(seed) for seed in (3, 4, 5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of `write_files`."""
    made = tmp_path_factory.mktemp("parties")
    write_files(made)
    return made


def phone(folder: Path) -> Client:
    return restore_client(load_client_file(folder / "phone.pth"), "phone.pth")


# What is sent


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_message_carries_the_features_of_evaluation_to_the_bit(settings: ClientSettings, images: Images) -> None:
    client = trained_client(settings)
    payloads = [decode(encode(payload)) for payload in Encoder(client)(*images)]
    received = to_batch([payload.image.pixels for payload in payloads])
    assert torch.equal(received, to_batch(images[1])) == (settings.image_quality is None)
    with torch.inference_mode():
        features = client(client.prepare(to_batch(images[0]), received))
    for tap, (sent, feature) in enumerate(zip(features_of(payloads), features, strict=True)):
        assert torch.equal(sent, feature)
        kept = round(feature.shape[1] * (1 - settings.pruned_channels[tap]))
        assert [len(payload.taps[tap].kept) for payload in payloads] == [kept] * 3
        assert payloads[0].taps[tap].bits == settings.bits[tap]
        values = feature.unique()
        assert len(values) > 1 or not kept
        if settings.bits[tap] < 32:
            assert len(values) <= 2 ** settings.bits[tap] + (kept < feature.shape[1])


def test_quantised_features_are_sent_as_codes(images: Images) -> None:
    client = trained_client(QUANTISED)
    payload = Encoder(client)(*images)[0]
    for name, tap in enumerate(payload.taps, start=1):
        assert tap.step == client.quantisers[str(name)].step.item()
        assert tap.codes.dtype == np.int8
    assert len(encode(payload)) < len(encode(Encoder(trained_client(FLOAT))(*images)[0])) / 3


def test_before_the_ramp_floats_are_sent(images: Images) -> None:
    client = trained_client(QUANTISED)
    client.set_progress(0, 0)
    payload = Encoder(client)(*images)[0]
    assert [tap.bits for tap in payload.taps] == [32] * 4
    with torch.inference_mode():
        features = client(client.prepare(*map(to_batch, images)))
    assert all(np.array_equal(tap.values(), f[0].numpy()) for tap, f in zip(payload.taps, features, strict=True))


def test_encoder_switches_to_evaluation(images: Images) -> None:
    client = trained_client(QUANTISED).train()
    before = copy.deepcopy(client.state_dict())
    Encoder(client)(*images)
    assert not client.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in client.state_dict().items())


# What the server makes of it


def test_two_parties_give_the_embedding_of_the_whole(folder: Path, images: Images) -> None:
    """To the bit for the same batch; another batch size sums the last layer's products in another order."""
    with torch.inference_mode():
        system = whole_system(folder)
        expected = system(*map(to_batch, images)).numpy()
        assert np.abs(expected - system.recogniser(to_batch(images[1])).numpy()).max() > 0.01, "features must matter"
    messages = [encode(payload) for payload in Encoder(phone(folder))(*images)]
    decoder = load_server_file(folder / "server.pth")
    found = decoder([decode(message) for message in messages])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    for message, embedding in zip(messages, expected, strict=True):
        np.testing.assert_allclose(decoder([decode(message)])[0], embedding, rtol=0, atol=1e-6)


def test_a_server_file_holds_what_reads_range_coded_messages(images: Images, tmp_path: Path) -> None:
    client = trained_client(replace(PRUNED, coding="range"))
    count_frequencies(client, [tuple(map(to_batch, images))])
    torch.save(get_model("mobilefacenet").state_dict(), tmp_path / "recogniser.pth")
    system = ProFaceC(client, load_recogniser("mobilefacenet", tmp_path / "recogniser.pth")).eval()
    path = tmp_path / "server.pth"
    save_server_file(path, system.server, client.feature_shapes, fingerprint(client), coding_of(client))
    decoder, encoder = load_server_file(path), Encoder(client)
    messages = encoder.messages(*images)
    assert [decoder.read(message) for message in messages] == encoder(*images)
    with pytest.raises(PayloadError, match="expected was"):
        decoder.read(Encoder(trained_client(replace(PRUNED, coding="range"), key_seed=12)).messages(*images)[0])


def test_the_server_resizes_features(images: Images, tmp_path: Path) -> None:
    """A server with other maps than the client."""
    torch.save(get_model("ir_18").state_dict(), tmp_path / "ir_18.pth")
    client = trained_client(ClientSettings(IR_SHAPES, bits=(4,) * 4))
    system = ProFaceC(client, load_recogniser("ir_18", tmp_path / "ir_18.pth")).eval()
    one = images[0][:1], images[1][:1]
    decoder = Decoder(system.server, client.feature_shapes, fingerprint(client))
    with torch.inference_mode():
        expected = system(*map(to_batch, one)).numpy()
    np.testing.assert_array_equal(decoder(Encoder(client)(*one)), expected)


def test_messages_of_another_client_are_refused(folder: Path, images: Images) -> None:
    decoder = load_server_file(folder / "server.pth")
    own, other = Encoder(phone(folder)), Encoder(trained_client(BOTH, key_seed=12))
    payloads = [own(*images)[0], other(*images)[1]]
    names = f"of client {other.fingerprint.hex()}, this server understands client {own.fingerprint.hex()}"
    with pytest.raises(PayloadError, match=names):
        decoder(payloads)


def test_features_of_another_shape_are_refused(folder: Path, images: Images) -> None:
    """Whatever a message says of its origin."""
    decoder = load_server_file(folder / "server.pth")
    payload = Encoder(phone(folder))(*images)[0]
    forged = Payload(payload.fingerprint, payload.image, payload.taps[:3])
    with pytest.raises(PayloadError, match=r"shapes \[.*\]: this server expects \[\(64, 28, 28\)"):
        decoder([forged])


# Fingerprints


def test_fingerprints_tell_clients_apart() -> None:
    client = trained_client(QUANTISED)
    other_key = trained_client(QUANTISED, key_seed=12)
    weights = client.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in other_key.state_dict().items() if not k.startswith("shuffles"))
    other_weight, other_step = copy.deepcopy(client), copy.deepcopy(client)
    with torch.no_grad():
        other_weight.interfaces[3].bias[5] += 1e-3
        other_step.quantisers["2"].log_step += 1e-3
    settings = copy.deepcopy(client)
    settings.settings = replace(QUANTISED, image_quality=50)
    found = {fingerprint(one) for one in (client, other_key, other_weight, other_step, settings)}
    assert len(found) == 5
    assert {len(one) for one in found} == {16}


def test_fingerprint_is_the_same_wherever_the_client_is(folder: Path, images: Images) -> None:
    system = whole_system(folder)
    name = fingerprint(system.client)
    assert fingerprint(phone(folder)) == name
    assert load_server_file(folder / "server.pth").fingerprint == name
    assert fingerprint(system.client.to(memory_format=torch.channels_last)) == name
    assert {payload.fingerprint for payload in Encoder(phone(folder))(*images)} == {name}


# Files


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def weights(state: dict[str, Tensor]) -> dict[str, bytes]:
    """The bytes of all tensors that are not one number or the same number everywhere."""
    return {k: v.numpy().tobytes() for k, v in state.items() if v.numel() > 1 and len(v.flatten().unique()) > 1}


def test_phone_file_has_nothing_of_the_server(folder: Path) -> None:
    contents = load_weights_file(folder / "phone.pth")
    whole = load_weights_file(folder / "client.pth")
    assert set(contents) == set(whole), "the same format"
    assert contents["compensation"] == {}
    assert contents["server"] == {"name": "mobilefacenet", "checkpoint": None, "channel_order": "auto"}
    of_phone, of_client = weights(contents["client"]), weights(whole["client"])
    assert of_phone == of_client and len(of_client) > 100
    data, whole_data = (folder / "phone.pth").read_bytes(), (folder / "client.pth").read_bytes()
    for secret in (*weights(whole["compensation"]).values(), str(folder).encode()):
        assert secret in whole_data
        assert secret not in data


def test_server_file_has_nothing_of_the_client(folder: Path) -> None:
    contents = load_weights_file(folder / "server.pth")
    whole = load_weights_file(folder / "client.pth")
    own = {tensor.numpy().tobytes() for tensor in tensors_in(contents)}
    data, whole_data = (folder / "server.pth").read_bytes(), (folder / "client.pth").read_bytes()
    for name, secret in weights(whole["client"]).items():
        assert secret in whole_data
        assert secret not in own, name
        assert secret not in data, name
    assert "shuffles.1.key" in weights(whole["client"])
    assert all(tensor.is_floating_point() or tensor.numel() == 1 for tensor in tensors_in(contents)), "no key"
    assert all(compensation in own for compensation in weights(whole["compensation"]).values())
    assert str(folder).encode() not in data


def test_phone_file_makes_no_system(folder: Path) -> None:
    recogniser = load_recogniser("mobilefacenet", folder / "server.ckpt")
    with pytest.raises(ValueError, match=r"phone\.pth holds no compensation weights: it is a client file for a phone"):
        build_system(load_client_file(folder / "phone.pth"), recogniser, "phone.pth")


def test_client_file_from_before_compression_loads(folder: Path, tmp_path: Path) -> None:
    """Its settings lack what came later, and mean what they meant."""
    recogniser = load_recogniser("mobilefacenet", folder / "server.ckpt")
    system = ProFaceC(trained_client(FLOAT), recogniser).eval()
    save_client_file(tmp_path / "new.pth", system, ServerReference("mobilefacenet", None), 7)
    contents = load_weights_file(tmp_path / "new.pth")
    later = {"input", "bits", "pruned_channels", "pruned_values", "picture_quality"}
    assert set(contents["settings"]) == set(FLOAT.as_dict()) > later
    contents["settings"] = {key: value for key, value in contents["settings"].items() if key not in later}
    save_weights_file(tmp_path / "old.pth", contents)
    file = load_client_file(tmp_path / "old.pth")
    assert file.settings == FLOAT
    assert fingerprint(build_system(file, recogniser, "old.pth").client) == fingerprint(system.client)


def test_another_file_is_no_server_file(folder: Path, tmp_path: Path) -> None:
    for name in ("client.pth", "server.ckpt"):
        with pytest.raises(ValueError, match=rf"{name} is no server file; `python -m torchkit\.server export` writes"):
            load_server_file(folder / name)
    with pytest.raises(FileNotFoundError, match=r"server file not found: .*gone\.pth"):
        load_server_file(tmp_path / "gone.pth")
    (tmp_path / "torn.pth").write_bytes((folder / "server.pth").read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"server file .*torn\.pth cannot be read"):
        load_server_file(tmp_path / "torn.pth")


def test_server_file_is_no_client_file(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"server\.pth is no client file"):
        load_client_file(folder / "server.pth")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"recogniser": None},
        {"recogniser": "other"},
        {"recogniser": "ir_18"},
        {"channel_order": "grb"},
        {"backbone": {}},
        {"backbone": [1]},
        {"compensation": {}},
        {"compensation": {"weights.0": 3}},
        {"client_fingerprint": "xyz"},
        {"client_fingerprint": 3},
        {"feature_shapes": [[1, 2]]},
        {"feature_shapes": 3},
        {"feature_shapes": None},
    ],
    ids=str,
)
def test_damaged_server_file_is_named(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "damaged.pth"
    save_weights_file(path, {**load_weights_file(folder / "server.pth"), **change})
    with pytest.raises(ValueError, match=r"damaged\.pth"):
        load_server_file(path)


@pytest.mark.parametrize("key", ["recogniser", "channel_order", "backbone", "compensation", "feature_shapes"])
def test_server_file_that_lacks_something_is_named(folder: Path, tmp_path: Path, key: str) -> None:
    contents = load_weights_file(folder / "server.pth")
    del contents[key]
    save_weights_file(tmp_path / "damaged.pth", contents)
    with pytest.raises(ValueError, match=rf"damaged\.pth is a server file, but damaged: .*{key}"):
        load_server_file(tmp_path / "damaged.pth")

"""The embedding as a fifth tap, and clients that end after their last tap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import draw_face
from parties import OWN_SHAPES, trained_client

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.client.calibrate import count_frequencies, is_compressed, recompressed
from torchkit.client.encoder import Encoder
from torchkit.payload import decode
from torchkit.server import CompensatedServer, CompensationSettings, Recogniser
from torchkit.server.decoder import features_of
from torchkit.util.pixels import network_input, to_batch

ALONE = ClientSettings(
    OWN_SHAPES, input="clear", shuffle_taps=(), pruned_channels=(1.0,) * 4, embedding_size=512, embedding_bits=4
)
CLEAR = to_batch([draw_face(seed) for seed in range(3)])
OBFUSCATED = to_batch([draw_face(seed) for seed in range(3, 6)])


@torch.no_grad()
def client_that_sends_its_embedding(settings: ClientSettings = ALONE) -> Client:
    client = trained_client(settings)
    torch.nn.init.eye_(client.embedding_interface.weight)
    return client


@pytest.mark.parametrize("source", ["clear", "residual", "difference"])
@torch.no_grad()
def test_the_fifth_tap_is_a_linear_map_of_the_networks_embedding(source: str) -> None:
    client = Client(replace(ALONE, input=source, embedding_bits=32), key_seed=1).eval()
    client.set_progress(1, 1)
    network = get_model("mobilefacenet").eval()
    network.load_state_dict({k.removeprefix("backbone."): v for k, v in client.state_dict().items() if "backbone" in k})
    clear, obfuscated = (network_input(images, "rgb") for images in (CLEAR, OBFUSCATED))
    if source == "difference":
        expected = F.normalize(network(clear)) - F.normalize(network(obfuscated))
    else:
        expected = F.normalize(network(clear if source == "clear" else clear - obfuscated))
    expected = client.embedding_interface(expected)
    found = client(client.prepare(CLEAR, OBFUSCATED))
    assert [tuple(feature.shape[1:]) for feature in found] == client.feature_shapes == [*OWN_SHAPES, (512, 1, 1)]
    torch.testing.assert_close(found[4].flatten(1), expected)
    assert not any(feature.any() for feature in found[:4])


@torch.no_grad()
def test_the_server_adds_it_to_its_own_embedding_of_unit_length() -> None:
    client = client_that_sends_its_embedding()
    server = CompensatedServer(Recogniser("mobilefacenet"), CompensationSettings("add"), client.feature_shapes).eval()
    torch.nn.init.uniform_(server.compensation.embedding_weights)
    torch.nn.init.uniform_(server.compensation.own_embedding_weights)
    features = client(client.prepare(CLEAR, OBFUSCATED))
    own = server.recogniser(OBFUSCATED)
    weights = server.compensation
    expected = F.normalize(weights.own_embedding_weights * own + weights.embedding_weights * features[4].flatten(1))
    torch.testing.assert_close(server(OBFUSCATED, features), expected)


def test_it_travels_as_a_fifth_tap() -> None:
    client = client_that_sends_its_embedding(replace(ALONE, coding="range"))
    count_frequencies(client, [(CLEAR, OBFUSCATED)])
    assert set(client.frequencies) == {"5"}
    encoder = Encoder(client)
    faces = [[draw_face(seed) for seed in seeds] for seeds in (range(3), range(3, 6))]
    payloads = [decode(message, encoder.coding) for message in encoder.messages(*faces)]
    with torch.no_grad():
        features = client(client.prepare(CLEAR, OBFUSCATED))
    assert [len(tap.kept) for tap in payloads[0].taps] == [0, 0, 0, 0, 512]
    for sent, feature in zip(features_of(payloads), features, strict=True):
        assert torch.equal(sent, feature)


def test_it_starts_at_nothing() -> None:
    client = Client(ALONE)
    client.start_interfaces("identity")
    assert not any(parameter.any() for parameter in client.embedding_interface.parameters())


def test_it_is_compressed_anew_with_the_others() -> None:
    client = client_that_sends_its_embedding()
    assert is_compressed(client)
    coarser = recompressed(client, 2, 0.0, client.prepare(CLEAR, OBFUSCATED))
    assert coarser.quantisers["5"].bits == 2
    with torch.no_grad():
        values = coarser(coarser.prepare(CLEAR, OBFUSCATED))[4]
    assert 2 <= len(values.unique()) <= 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"last_tap": 5}, r"allowed are taps 0\.\.4"),
        ({"embedding_size": -1}, r"embedding of -1 values: allowed are .*0\.\.4096"),
        ({"embedding_size": 128, "last_tap": 3}, "take last tap 4"),
        ({"embedding_bits": 3}, "allowed are 1, 2, 4, 8 and 32"),
    ],
)
def test_settings_that_make_no_client_are_refused(change: dict[str, int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        replace(ALONE, **change)  # type: ignore[arg-type]


# Clients that end early


@pytest.mark.parametrize("backbone", ["mobilefacenet", "strided_encoder", "ir_18"])
@torch.no_grad()
def test_a_client_that_ends_early_holds_no_more_than_it_runs(backbone: str) -> None:
    settings = ClientSettings(OWN_SHAPES, backbone=backbone, shuffle_taps=(), pruned_channels=(0.0, 0.0, 1.0, 1.0))
    short, whole = Client(replace(settings, last_tap=2)).eval(), Client(settings).eval()
    for client in (short, whole):
        client.set_progress(1, 1)
    own = short.state_dict()
    network = get_model(backbone)
    needed = {
        f"backbone.{name}"
        for name, module in network.named_modules()
        for segment in network.segments()[:2]
        if module in {inner for part in segment for inner in part.modules()}
    }
    parameters = {name for name, _ in short.backbone.named_parameters(prefix="backbone")}
    assert parameters and all(name.rpartition(".")[0] in needed for name in parameters)
    whole.load_state_dict({**whole.state_dict(), **own})
    prepared = torch.rand(2, 3, 112, 112)
    for early, late in zip(short(prepared), whole(prepared), strict=True):
        assert torch.equal(early, late)
    assert len(short.interfaces) == 2 and set(short.pruners) == set()
    assert [len(short.kept_channels(name)) for name in short.tap_names] == [64, 128, 0, 0]


def test_a_client_that_ends_early_sends_empty_taps() -> None:
    client = trained_client(ClientSettings(OWN_SHAPES, shuffle_taps=(4,), bits=(8, 32, 32, 32), last_tap=1))
    payload = Encoder(client)([draw_face(0)], [draw_face(1)])[0]
    assert [len(tap.kept) for tap in payload.taps] == [64, 0, 0, 0]
    assert not client.shuffles, "nothing of a tap that is never sent can be shuffled"
    client.draw_new_key(3)
    assert np.array_equal(payload.taps[3].values(), np.zeros(OWN_SHAPES[3], np.float32))

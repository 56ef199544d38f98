"""Files that an earlier version wrote: a client, its server and a message load, and give the numbers they gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from torchkit.client.encoder import Encoder, fingerprint
from torchkit.payload import decode
from torchkit.system import load_client_file, load_server_file, restore_client
from torchkit.util.pixels import to_batch

ASSETS = Path(__file__).resolve().parents[1] / "assets"
CLIENT, SERVER, MESSAGE = ASSETS / "stored_client.pth", ASSETS / "stored_server.pth", ASSETS / "stored.pfc"
BITS = (32, 8, 32, 2)
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    """A clear face, the features that the client sent of it, and its embedding by the server."""
    with np.load(ASSETS / "stored.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_stored_client(stored: dict[str, np.ndarray]) -> None:
    """Of quantised features a value between two codes may fall to either on another processor."""
    file = load_client_file(CLIENT)
    assert file.settings.bits == BITS and file.settings.image_quality == 60
    assert file.server.channel_order == "auto" and file.trained_steps == 7
    client = restore_client(file, "stored client")
    message = decode(MESSAGE.read_bytes())
    assert fingerprint(client) == message.fingerprint
    prepared = client.prepare(to_batch([stored["clear"]]), to_batch([message.image.pixels]))
    with torch.inference_mode():
        features = client(prepared)
    for tap, (bits, found) in enumerate(zip(BITS, features, strict=True), start=1):
        expected = stored[f"features_{tap}"]
        differences = np.abs(found[0].numpy() - expected)
        assert differences.shape == expected.shape
        assert (differences > TOLERANCE * np.abs(expected).max()).mean() <= (0 if bits == 32 else 0.001)


def test_stored_message(stored: dict[str, np.ndarray]) -> None:
    message = decode(MESSAGE.read_bytes())
    for tap, features in enumerate(message.taps, start=1):
        np.testing.assert_array_equal(features.values(), stored[f"features_{tap}"])


def test_stored_server(stored: dict[str, np.ndarray]) -> None:
    decoder = load_server_file(SERVER)
    (embedding,) = decoder([decode(MESSAGE.read_bytes())])
    np.testing.assert_allclose(embedding, stored["embedding"], rtol=0, atol=TOLERANCE)


def test_stored_client_speaks_to_stored_server(stored: dict[str, np.ndarray]) -> None:
    client = restore_client(load_client_file(CLIENT), "stored client")
    received = decode(MESSAGE.read_bytes()).image.pixels
    (payload,) = Encoder(client)([stored["clear"]], [received])
    load_server_file(SERVER).check(payload)

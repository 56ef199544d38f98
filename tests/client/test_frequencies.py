"""Frequencies of a client's codes: counted as they leave, kept in client and server files, used by both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import draw_face
from parties import PRUNED, QUANTISED, trained_client

from torchkit.client import Client
from torchkit.client.calibrate import count_frequencies, recompressed
from torchkit.client.encoder import Encoder, coding_of, fingerprint
from torchkit.client.frequencies import MAX_ELEMENTWISE, PRIOR_COUNT, FrequencyTable, whole_frequencies
from torchkit.payload import FREQUENCY_TOTAL, decode, encode, sizes
from torchkit.util.pixels import to_batch

RANGE = replace(QUANTISED, coding="range", pruned_channels=(0.5, 1.0, 0.0, 0.25))
FACES = [draw_face(seed) for seed in range(8)]
OBFUSCATED = [draw_face(seed) for seed in range(8, 16)]


def counted_client() -> Client:
    client = trained_client(RANGE)
    count_frequencies(
        client, [(to_batch(FACES[:5]), to_batch(OBFUSCATED[:5])), (to_batch(FACES[5:]), to_batch(OBFUSCATED[5:]))]
    )
    return client


def test_tables_say_how_often_each_code_left() -> None:
    client = counted_client()
    payloads = Encoder(client)(FACES, OBFUSCATED)
    for tap in (3, 4):
        codes = np.stack([payload.taps[tap - 1].codes for payload in payloads])  # (B, K, h, w)
        values = {3: [-2, -1, 0, 1], 4: [-1, 1]}[tap]
        channel = np.stack([(codes == value).sum((0, 2, 3)) for value in values], axis=-1).astype(float)  # (K, S)
        element = np.stack([(codes == value).sum(0) for value in values], axis=-1).astype(float)  # (K, h, w, S)
        kept = payloads[0].taps[tap - 1].kept
        table = client.frequencies[str(tap)].table.numpy()[kept]
        # Beside an element's own counts PRIOR_COUNT shared out as in its channel, nearly: that has a prior, too.
        prior = PRIOR_COUNT * channel / channel.sum(-1, keepdims=True)
        expected = element.reshape(len(kept), -1, len(values)) + prior[:, None]
        shares = expected / expected.sum(-1, keepdims=True)
        assert np.abs(table / FREQUENCY_TOTAL - shares).max() < 0.02
    assert "2" not in client.frequencies, "a tap that is never sent needs none"


def test_large_maps_have_a_row_a_channel() -> None:
    assert FrequencyTable((128, 14, 14), 2).table.shape == (128, 196, 4)
    assert MAX_ELEMENTWISE < 64 * 28 * 28 * 256
    table = FrequencyTable((64, 28, 28), 8)
    assert table.table.shape == (64, 1, 256)
    table.set_counts(torch.randint(0, 5, (64, 784, 256)))
    assert (table.table.sum(-1) == FREQUENCY_TOTAL).all()


@pytest.mark.parametrize("values", [2, 4, 16, 256])
def test_whole_frequencies_are_near_the_shares(values: int) -> None:
    shares = np.random.default_rng(values).random((50, values)) ** 6
    shares /= shares.sum(-1, keepdims=True)
    whole = whole_frequencies(shares)
    assert (whole.sum(-1) == FREQUENCY_TOTAL).all() and whole.min() >= 1
    assert np.abs(whole / FREQUENCY_TOTAL - shares).max() <= 1.5 * values / FREQUENCY_TOTAL


def test_counting_makes_messages_shorter_and_changes_nothing_else() -> None:
    before, after = trained_client(RANGE), counted_client()
    uncounted, counted = Encoder(before), Encoder(after)
    assert fingerprint(before) != fingerprint(after), "a reader with other frequencies would misread"
    payloads = counted(FACES, OBFUSCATED)
    for payload, same, longer, message in zip(
        payloads, uncounted(FACES, OBFUSCATED), uncounted.messages(FACES, OBFUSCATED),
        counted.messages(FACES, OBFUSCATED), strict=True,
    ):  # fmt: skip
        assert payload.taps == same.taps
        assert decode(message, coding_of(after)) == payload
        assert sum(sizes(message).features) < sum(sizes(longer).features)
        assert len(message) < len(encode(payload)), "version 1"


def test_counting_keeps_the_mode() -> None:
    client = trained_client(RANGE).train()
    count_frequencies(client, [])
    assert client.training


def test_clients_that_pack_write_version_1_as_ever() -> None:
    client = trained_client(PRUNED)
    encoder = Encoder(client)
    assert encoder.coding is None and not client.frequencies
    payloads = encoder(FACES[:2], OBFUSCATED[:2])
    assert encoder.messages(FACES[:2], OBFUSCATED[:2]) == [encode(payload) for payload in payloads]


def test_features_that_are_not_quantised_yet_leave_as_floats() -> None:
    client = trained_client(RANGE)
    client.set_progress(0, 0)
    encoder = Encoder(client)
    payload, message = encoder(FACES[:1], OBFUSCATED[:1])[0], encoder.messages(FACES[:1], OBFUSCATED[:1])[0]
    assert {tap.bits for tap in payload.taps} == {32}
    assert decode(message, encoder.coding) == payload


def test_a_client_that_is_compressed_anew_counts_anew() -> None:
    client = counted_client()
    anew = recompressed(client, 4, 0.0, client.prepare(to_batch(FACES), to_batch(OBFUSCATED)))
    uniform = FrequencyTable(anew.feature_shapes[2], 4)
    assert anew.frequencies["3"].table.shape == uniform.table.shape
    assert not torch.equal(anew.frequencies["3"].table, uniform.table)


def test_unknown_coding_is_refused() -> None:
    with pytest.raises(ValueError, match="coding 'huffman': allowed are packed, range"):
        replace(RANGE, coding="huffman")

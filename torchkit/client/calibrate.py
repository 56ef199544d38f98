"""Compress a trained client further without training it: what compression costs when nobody trained through it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from torchkit.backbone import NUM_TAPS
from torchkit.client.model import Client
from torchkit.client.quantise import FLOAT_BITS, Quantiser
from torchkit.payload.packing import symbols_of


@torch.no_grad()
def recompressed(client: Client, bits: int, value_share: float, prepared: Tensor) -> Client:
    """A copy of a client with other bits and other pruning of values; channels that are never sent stay so.

    Args:
        client: trained.
        bits: for every tap: 1, 2, 4, 8, or 32 for float32.
        value_share: of the values of kept channels, the share that is sent as zero; 0 with 1 bit.
        prepared: inputs (see `Client.prepare`) by which the thresholds and, as LSQ starts, the step sizes are set, and
            the frequencies of codes, if messages need them.
    """
    assert bits != 1 or value_share == 0, "codes of 1 bit have no zero"
    settings = replace(
        client.settings, bits=(bits,) * NUM_TAPS, pruned_values=(value_share,) * NUM_TAPS, embedding_bits=bits
    )
    made = Client(settings, key_seed=0).to(prepared.device)
    own = made.state_dict()
    shared = {name: value for name, value in client.state_dict().items() if not name.startswith("frequencies.")}
    made.load_state_dict(own | {name: value for name, value in shared.items() if name in own})
    made.eval()
    for name, features in made.unquantised(prepared).items():
        if name in made.pruners:
            features = made.pruners[name].calibrate(features)
        if name in made.quantisers:
            made.quantisers[name].calibrate(features.float())
    _count_codes(made, [prepared])
    return made


@torch.no_grad()
def count_frequencies(client: Client, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set a client's tables of frequencies by the codes that it sends for these images; what else it holds stays.

    Args:
        client: trained.
        batches: pairs of clear and obfuscated images (B, 3, 112, 112) uint8 RGB.
    """
    was_training = client.training
    client.eval()
    _count_codes(client, (client.prepare(clear, obfuscated) for clear, obfuscated in batches))
    client.train(was_training)


def _count_codes(client: Client, batches: Iterable[Tensor]) -> None:
    """Set the tables of frequencies by the codes of batches of inputs (see `Client.prepare`)."""
    counts = {
        name: torch.zeros(shape[0], shape[1] * shape[2], 2 ** client.quantisers[name].bits, dtype=torch.int64)
        for name, shape in zip(client.tap_names, client.feature_shapes, strict=True)
        if name in client.frequencies
    }
    for prepared in batches:
        for name, features in client.unquantised(prepared).items():
            if name in counts:
                counts[name] += _occurrences(client.quantisers[name], features)
    for name, of_tap in counts.items():
        client.frequencies[name].set_counts(of_tap)


def _occurrences(quantiser: Quantiser, features: Tensor) -> Tensor:
    """How often each code stands in each place of features (B, C, h, w): (C, h * w, 2**bits) int64."""
    codes = quantiser.codes(features).flatten(2).cpu().numpy()
    symbols = torch.from_numpy(symbols_of(codes, quantiser.bits)).long()  # (B, C, h * w)
    channels, cells, values = *symbols.shape[1:], 2**quantiser.bits
    rows = torch.arange(channels * cells).view(channels, cells)
    found = torch.bincount((rows * values + symbols).flatten(), minlength=channels * cells * values)
    return found.view(channels, cells, values)


def without_quantisation(client: Client) -> Client:
    """A copy of a client whose features leave as float32, before they are quantised; what is pruned stays so."""
    made = copy.deepcopy(client)
    for quantiser in made.quantisers.values():
        quantiser.set_share(0)
    return made


def is_compressed(client: Client) -> bool:
    """Whether the client was trained to send less than all its features as float32."""
    settings = client.settings
    quantised = {*settings.bits, settings.embedding_bits} != {FLOAT_BITS}
    return quantised or any(settings.pruned_channels) or any(settings.pruned_values)

"""A client and a server as after a training, and their files, for the tests of both parties."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from conftest import draw_face
from torch import Tensor, nn

from torchkit.backbone import get_model
from torchkit.client import Client, ClientSettings
from torchkit.client.encoder import fingerprint
from torchkit.server import load_recogniser
from torchkit.system import (
    ProFaceC,
    ServerReference,
    build_system,
    load_client_file,
    save_client_file,
    save_phone_file,
    save_server_file,
)
from torchkit.util.pixels import to_batch

OWN_SHAPES = ((64, 28, 28), (128, 14, 14), (128, 7, 7), (512, 7, 7))  # of a MobileFaceNet as the server
FLOAT = ClientSettings(OWN_SHAPES, shuffle_taps=(1, 2), shuffle_block_px=7)
QUANTISED = replace(FLOAT, bits=(8, 4, 2, 1))
PRUNED = replace(FLOAT, pruned_channels=(0.5, 0.0, 1.0, 0.25), pruned_values=(0.5, 0.75, 0.0, 0.0))
BOTH = replace(PRUNED, input="both", channel_order="bgr", bits=(2, 2, 4, 32))
BOTTLENECK = ClientSettings(
    OWN_SHAPES, backbone="strided_encoder", input="clear", bottleneck=(24, 0, 0, 0), bits=(2, 32, 32, 32),
    pruned_channels=(0, 1, 1, 1),
)  # fmt: skip
DIFFERENCE = replace(FLOAT, input="difference", bits=(2, 2, 4, 8), pruned_channels=(1.0, 0.5, 0.0, 0.75))


@torch.no_grad()
def settle(network: nn.Module, x: Tensor) -> None:
    """Batch norms as after a training: all different, and such that what becomes of `x` neither fades nor grows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
    network.train()(x)
    network.eval()


def trained_client(settings: ClientSettings, key_seed: int = 11) -> Client:
    """A client as after a training, compression included."""
    return copy.deepcopy(_trained_client(settings, key_seed))


@cache
def _trained_client(settings: ClientSettings, key_seed: int) -> Client:
    torch.manual_seed(5)
    client = Client(settings, key_seed)
    images = to_batch([draw_face(seed) for seed in (6, 7, 8, 9)])
    prepared = client.prepare(images[:2], images[2:])
    client.set_progress(0, 0)
    settle(client, prepared)
    for pruner in client.pruners.values():
        pruner.importance.uniform_()
    client.set_progress(1, 1)
    with torch.no_grad():
        maps = client.unquantised(prepared)
        for name, pruner in client.pruners.items():
            if pruner.value_share:
                kept = maps[name][:, pruner.keep]
                pruner.threshold.copy_(torch.quantile(kept.abs().flatten(), pruner.value_share))
        for name, quantiser in client.quantisers.items():
            quantiser.log_step.copy_((3 * maps[name].std() / 2 ** (quantiser.bits - 1) + 1e-3).log())
    return client


def write_files(folder: Path) -> None:
    """Write `server.ckpt`, `client.pth` with `BOTH`, and what is made of them: `phone.pth`, `server.pth`."""
    torch.manual_seed(1)
    network = get_model("mobilefacenet")
    settle(network, torch.rand(4, 3, 112, 112) * 2 - 1)
    torch.save(network.state_dict(), folder / "server.ckpt")
    system = ProFaceC(trained_client(BOTH), load_recogniser("mobilefacenet", folder / "server.ckpt")).eval()
    for weight in system.server.compensation.weights:
        nn.init.normal_(weight)
    reference = ServerReference("mobilefacenet", folder / "server.ckpt")
    save_client_file(folder / "client.pth", system, reference, 7)
    save_phone_file(folder / "phone.pth", system.client, reference, 7)
    save_server_file(folder / "server.pth", system.server, system.client.feature_shapes, fingerprint(system.client))


def whole_system(folder: Path) -> ProFaceC:
    """Client and server in one, of the files that `write_files` wrote."""
    file = load_client_file(folder / "client.pth")
    return build_system(file, load_recogniser("mobilefacenet", folder / "server.ckpt"), "client.pth")

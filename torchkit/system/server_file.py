"""The server file: everything that a server needs to read one client's messages, without the client or its key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from torchkit.backbone import Shape
from torchkit.payload import Coding, TapCoding
from torchkit.server.compensation import CompensatedServer, CompensationSettings
from torchkit.server.decoder import Decoder
from torchkit.server.fold import fold_batch_norms
from torchkit.server.recogniser import Recogniser
from torchkit.util.container import Container
from torchkit.util.weights import load_state, plain_state

SERVER_FILE = Container("server file", "proface-c server")


def save_server_file(
    path: Path, server: CompensatedServer, feature_shapes: Sequence[Shape], fingerprint: bytes,
    coding: Coding | None = None,
) -> None:  # fmt: skip
    """Write recogniser, compensation and the fingerprint and coding of the client, whole or not at all."""
    contents = {
        "recogniser": server.recogniser.name,
        "channel_order": server.recogniser.channel_order,
        "backbone": plain_state(server.recogniser.backbone),
        "compensation": plain_state(server.compensation),
        "compensation_settings": asdict(server.compensation.settings),
        "client_fingerprint": fingerprint.hex(),
        "feature_shapes": [list(shape) for shape in feature_shapes],
        "coding": None if coding is None else [_stored_coding(tap) for tap in coding.taps],
    }
    SERVER_FILE.write(path, contents)


def load_server_file(path: Path) -> Decoder:
    """Read a server file.

    Raises:
        FileNotFoundError, ValueError: missing, damaged or something else.
    """
    contents = SERVER_FILE.read(path, "`python -m torchkit.server export` writes one from a client file")
    with SERVER_FILE.parsing(path):
        recogniser = Recogniser(contents["recogniser"], contents["channel_order"])
        backbone, compensation = dict(contents["backbone"]), dict(contents["compensation"])
        shapes = [(int(c), int(h), int(w)) for c, h, w in contents["feature_shapes"]]
        settings = CompensationSettings(**contents.get("compensation_settings", {}))  # absent: as published
        fingerprint = bytes.fromhex(contents["client_fingerprint"])
        coding = _read_coding(contents.get("coding"), fingerprint)  # absent: version 1
    fold_batch_norms(recogniser.backbone)  # as they were when the file was written
    load_state(recogniser.backbone, backbone, str(path))
    server = CompensatedServer(recogniser, settings, shapes)
    load_state(server.compensation, compensation, f"{path}, compensation")
    return Decoder(server, shapes, fingerprint, coding)


def _stored_coding(tap: TapCoding) -> dict[str, Any]:
    """Convert a coding to types that a weight file may hold."""
    arrays = {"kept": torch.from_numpy(tap.kept.copy()), "frequencies": torch.from_numpy(tap.frequencies.copy()).int()}
    return {"shape": list(tap.shape), "bits": tap.bits, "step": tap.step, **arrays}


def _read_coding(stored: list[dict[str, Any]] | None, fingerprint: bytes) -> Coding | None:
    """Undo `_stored_coding` for all taps; raises ValueError, KeyError, TypeError or AttributeError if it is damaged."""
    if stored is None:
        return None
    taps = (
        TapCoding(
            (int(tap["shape"][0]), int(tap["shape"][1]), int(tap["shape"][2])), tap["kept"].long().numpy(),
            int(tap["bits"]), float(tap["step"]), tap["frequencies"].long().numpy(),
        )
        for tap in stored
    )  # fmt: skip
    return Coding(fingerprint, tuple(taps))

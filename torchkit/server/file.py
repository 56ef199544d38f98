"""The server file: everything a server needs to understand one client's messages, without the client or its key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torchkit import __version__
from torchkit.backbone import Shape
from torchkit.server.compensation import CompensatedServer, CompensationSettings
from torchkit.server.decoder import Decoder
from torchkit.server.fold import fold_batch_norms
from torchkit.server.recogniser import Recogniser
from torchkit.util.weights import load_state, load_weights_file, plain_state, save_weights_file

FORMAT = "proface-c server"
FORMAT_VERSION = 1


def save_server_file(
    path: Path, server: CompensatedServer, feature_shapes: Sequence[Shape], fingerprint: bytes
) -> None:
    """Write recogniser and compensation weights, and which client they understand; whole or not at all."""
    contents = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "written_by": f"torchkit {__version__}",
        "recogniser": server.recogniser.name,
        "channel_order": server.recogniser.channel_order,
        "backbone": plain_state(server.recogniser.backbone),
        "compensation": plain_state(server.compensation),
        "compensation_settings": asdict(server.compensation.settings),
        "client_fingerprint": fingerprint.hex(),
        "feature_shapes": [list(shape) for shape in feature_shapes],
    }
    save_weights_file(path, contents)


def load_server_file(path: Path) -> Decoder:
    """Read a server file.

    Raises:
        FileNotFoundError, ValueError: missing, damaged or something else.
    """
    contents = load_weights_file(path, "server file")
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise ValueError(f"{path} is no server file; `python -m torchkit.server export` writes one from a client file")
    if contents.get("version") != FORMAT_VERSION:
        raise ValueError(f"{path} has version {contents.get('version')}; this program reads version {FORMAT_VERSION}")
    try:
        recogniser = Recogniser(contents["recogniser"], contents["channel_order"])
        backbone, compensation = dict(contents["backbone"]), dict(contents["compensation"])
        shapes = [(int(c), int(h), int(w)) for c, h, w in contents["feature_shapes"]]
        settings = CompensationSettings(**contents.get("compensation_settings", {}))  # absent: as published
        fingerprint = bytes.fromhex(contents["client_fingerprint"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is a server file, but damaged: {error!r}") from error
    fold_batch_norms(recogniser.backbone)  # as they were when the file was written
    load_state(recogniser.backbone, backbone, str(path))
    server = CompensatedServer(recogniser, settings)
    load_state(server.compensation, compensation, f"{path}, compensation")
    return Decoder(server, shapes, fingerprint)

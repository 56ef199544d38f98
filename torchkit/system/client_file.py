"""The client file: a client, and what its server needs beside the recogniser.

It holds the client, its key, the compensation weights and the name of the server, but no weight of the recogniser.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torchkit.client import Client, ClientSettings
from torchkit.server import CompensationSettings, Recogniser
from torchkit.system.contents import ClientFile, ServerReference
from torchkit.system.model import ProFaceC
from torchkit.system.published_file import is_published, parse_published_file
from torchkit.util.container import Container
from torchkit.util.weights import load_state, load_weights_file, plain_state

CLIENT_FILE = Container("client file", "proface-c client")


def build_system(file: ClientFile, recogniser: Recogniser, where: str) -> ProFaceC:
    """Build client and server from a client file and a recogniser.

    Raises:
        ValueError: the file was trained for a server with other maps, is for a phone, or is damaged.
    """
    shapes = tuple(recogniser.backbone.tap_shapes())
    if file.settings.server_shapes != shapes:
        raise ValueError(
            f"{where} was trained for a server with maps {list(file.settings.server_shapes)}, but "
            f"{recogniser.name} has {list(shapes)}; give the server it was trained for with --server"
        )
    if not file.compensation:
        raise ValueError(
            f"{where} holds no compensation weights: it is a client file for a phone; take the one that train.py wrote"
        )
    system = ProFaceC(restore_client(file, where), recogniser, file.compensation_settings)
    load_state(system.server.compensation, file.compensation, f"{where}, compensation")
    return system.eval()


def restore_client(file: ClientFile, where: str) -> Client:
    """Build the client of a client file alone, in evaluation mode.

    Raises:
        ValueError: the file is damaged.
    """
    client = Client(file.settings, key_seed=0)
    load_state(client, file.client, where)
    return client.eval()


def save_client_file(path: Path, system: ProFaceC, server: ServerReference, trained_steps: int) -> None:
    """Write the client, whole or not at all; the same weights give the same bytes."""
    weights = plain_state(system.client), plain_state(system.server.compensation)
    compensation = system.server.compensation.settings
    _write(path, ClientFile(system.client.settings, *weights, server, compensation, trained_steps))


def save_phone_file(path: Path, client: Client, server: ServerReference, trained_steps: int) -> None:
    """Write what a phone needs: the client file without compensation weights and the path of the server's weights."""
    phone = replace(server, checkpoint=None)
    _write(path, ClientFile(client.settings, plain_state(client), {}, phone, trained_steps=trained_steps))


def _write(path: Path, file: ClientFile) -> None:
    contents = {
        "settings": file.settings.as_dict(),
        "client": file.client,
        "compensation": file.compensation,
        "compensation_settings": asdict(file.compensation_settings),
        "server": {
            "name": file.server.name,
            "checkpoint": str(file.server.checkpoint) if file.server.checkpoint else None,
            "channel_order": file.server.channel_order,
        },
        "trained_steps": file.trained_steps,
    }
    CLIENT_FILE.write(path, contents)


def load_client_file(path: Path) -> ClientFile:
    """Read a client file of this project, or a published client state dict.

    Raises:
        FileNotFoundError, ValueError: missing, damaged or something else.
    """
    contents = load_weights_file(path, CLIENT_FILE.name)
    if CLIENT_FILE.is_format_of(contents):
        return _parse(contents, path)
    if is_published(contents):
        return parse_published_file(contents, path)
    raise ValueError(
        f"{path} is no client file: expected one written by train.py, or a published client state dict "
        "(weight1..4, interface_1..4, client_backbone.*, channel_permutations)"
    )


def _parse(contents: dict[str, Any], path: Path) -> ClientFile:
    CLIENT_FILE.check_version(contents, path)
    with CLIENT_FILE.parsing(path):
        server = contents["server"]
        compensation = contents.get("compensation_settings", {})  # absent: as published
        checkpoint = Path(server["checkpoint"]) if server["checkpoint"] else None
        return ClientFile(
            settings=ClientSettings.from_dict(contents["settings"]),
            client=dict(contents["client"]),
            compensation=dict(contents["compensation"]),
            server=ServerReference(server["name"], checkpoint, server["channel_order"]),
            compensation_settings=CompensationSettings(**compensation),
            trained_steps=int(contents["trained_steps"]),
        )

"""Client and server together, and the client file that describes them.

A client file holds the client, its key, the compensation weights and how the server was called, but no weight of
the recogniser. A published client state dict is recognised by its keys and read into the published layout.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchkit import __version__
from torchkit.client import Client, ClientSettings
from torchkit.server import CompensatedServer, CompensationSettings, Recogniser
from torchkit.server.compensation import PUBLISHED
from torchkit.util.weights import load_state, load_weights_file, plain_state, save_weights_file

FORMAT = "proface-c client"
FORMAT_VERSION = 1
PUBLISHED_SHAPES = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))
PUBLISHED_BLOCK_PX = 28
# The published client names its backbone's modules by position; MobileFaceNet here as TFace does.
PUBLISHED_MODULES = {
    "input_layer": "conv1",
    "body_0": "conv2_dw",
    "body_1": "conv_23",
    "body_2": "conv_3",
    "body_3": "conv_34",
    "body_4": "conv_4",
    "body_5": "conv_45",
    "body_6": "conv_5",
    "body_7": "conv_6_sep",
}


@dataclass(frozen=True)
class ServerReference:
    """How the server of a client was called."""

    name: str | None
    """Key of RECOGNISERS; None: the file does not say (published weights)."""
    checkpoint: Path | None
    """Where its weights lay when the client was trained."""
    channel_order: str = "auto"


@dataclass(frozen=True)
class ClientFile:
    """Contents of a client file."""

    settings: ClientSettings
    client: dict[str, Tensor]
    compensation: dict[str, Tensor]
    """Empty in a file for a phone."""
    server: ServerReference
    how: CompensationSettings = PUBLISHED
    """How the server uses the features."""
    trained_steps: int = 0


class ProFaceC(nn.Module):
    """The system of the paper: a client and a frozen server with a compensation head.

    Shape: clear and obfuscated images (B, 3, 112, 112) uint8 RGB -> embeddings (B, D), unit length.
    """

    def __init__(self, client: Client, recogniser: Recogniser, how: CompensationSettings = PUBLISHED) -> None:
        super().__init__()
        self.client = client
        self.server = CompensatedServer(recogniser, how)

    @property
    def recogniser(self) -> Recogniser:
        return self.server.recogniser

    def features(self, clear: Tensor, obfuscated: Tensor) -> list[Tensor]:
        """What the client sends beside the obfuscated image: four maps (B, C_i, h_i, w_i)."""
        return self.client(self.client.prepare(clear, obfuscated))

    def forward(self, clear: Tensor, obfuscated: Tensor) -> Tensor:
        return self.server(obfuscated, self.features(clear, obfuscated))

    def trained_modules(self) -> dict[str, nn.Module]:
        """What training changes, by the name under which a checkpoint keeps it."""
        return {"client": self.client, "compensation": self.server.compensation}


def build_system(file: ClientFile, recogniser: Recogniser, where: str) -> ProFaceC:
    """Client and server from a client file and a recogniser.

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
    system = ProFaceC(restore_client(file, where), recogniser, file.how)
    load_state(system.server.compensation, file.compensation, f"{where}, compensation")
    return system.eval()


def restore_client(file: ClientFile, where: str) -> Client:
    """The client of a client file alone, in evaluation mode.

    Raises:
        ValueError: the file is damaged.
    """
    client = Client(file.settings, key_seed=0)
    load_state(client, file.client, where)
    return client.eval()


def save_client_file(path: Path, system: ProFaceC, server: ServerReference, trained_steps: int) -> None:
    """Write the client, whole or not at all; the same weights give the same bytes."""
    weights = plain_state(system.client), plain_state(system.server.compensation)
    how = system.server.compensation.settings
    _write(path, ClientFile(system.client.settings, *weights, server, how, trained_steps))


def save_phone_file(path: Path, client: Client, server: ServerReference, trained_steps: int) -> None:
    """Write what a phone needs: the client file without compensation weights and the place of the server's weights."""
    phone = replace(server, checkpoint=None)
    _write(path, ClientFile(client.settings, plain_state(client), {}, phone, trained_steps=trained_steps))


def _write(path: Path, file: ClientFile) -> None:
    contents = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "written_by": f"torchkit {__version__}",
        "settings": file.settings.as_dict(),
        "client": file.client,
        "compensation": file.compensation,
        "compensation_settings": asdict(file.how),
        "server": {
            "name": file.server.name,
            "checkpoint": str(file.server.checkpoint) if file.server.checkpoint else None,
            "channel_order": file.server.channel_order,
        },
        "trained_steps": file.trained_steps,
    }
    save_weights_file(path, contents)


def load_client_file(path: Path) -> ClientFile:
    """Read a client file of this project, or a published client state dict.

    Raises:
        FileNotFoundError, ValueError: missing, damaged or something else.
    """
    contents = load_weights_file(path, "client file")
    if isinstance(contents, dict) and contents.get("format") == FORMAT:
        return _own_file(contents, path)
    if isinstance(contents, dict) and {"weight1", "channel_permutations"} <= set(contents):
        try:
            return _published_file(contents)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is a published client, but damaged: {error!r}") from error
    raise ValueError(
        f"{path} is no client file: expected one written by train.py, or a published client state dict "
        "(weight1..4, interface_1..4, client_backbone.*, channel_permutations)"
    )


def _own_file(contents: dict[str, Any], path: Path) -> ClientFile:
    if contents.get("version") != FORMAT_VERSION:
        raise ValueError(f"{path} has version {contents.get('version')}; this program reads version {FORMAT_VERSION}")
    try:
        server = contents["server"]
        checkpoint = Path(server["checkpoint"]) if server["checkpoint"] else None
        return ClientFile(
            settings=ClientSettings.from_dict(contents["settings"]),
            client=dict(contents["client"]),
            compensation=dict(contents["compensation"]),
            server=ServerReference(server["name"], checkpoint, server["channel_order"]),
            how=CompensationSettings(**contents.get("compensation_settings", {})),  # absent: as published
            trained_steps=int(contents["trained_steps"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is a client file, but damaged: {error!r}") from error


def _published_file(state: dict[str, Tensor]) -> ClientFile:
    """A published client: RGB residual, taps resized to the server's maps, key in the first four rows of 784."""
    client: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        if module == "client_backbone":
            stage, _, inner = rest.partition(".")
            if stage != "output_layer":  # makes an embedding that nobody uses
                client[f"backbone.{PUBLISHED_MODULES.get(stage, stage)}.{inner}"] = tensor
        elif module.startswith("interface_"):
            tap = int(module.removeprefix("interface_")) - 1
            client[f"interfaces.{tap}.{rest.removeprefix('1.')}"] = tensor
    for tap, shape in enumerate(PUBLISHED_SHAPES):  # without a bias in the file, there is none to add
        client.setdefault(f"interfaces.{tap}.bias", state["weight1"].new_zeros(shape[0]))
    blocks = (PUBLISHED_SHAPES[0][1] // PUBLISHED_BLOCK_PX) ** 2
    client["shuffles.1.key"] = state["channel_permutations"][:blocks].long()
    return ClientFile(
        settings=ClientSettings(
            server_shapes=PUBLISHED_SHAPES, layout="published", shuffle_block_px=PUBLISHED_BLOCK_PX
        ),
        client=client,
        compensation={f"weights.{tap}": state[f"weight{tap + 1}"] for tap in range(len(PUBLISHED_SHAPES))},
        server=ServerReference(None, None, "rgb"),
    )

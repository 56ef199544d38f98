"""A trained system, put together again: a client file, and the weights of its server wherever they are now."""

from __future__ import annotations

from pathlib import Path

from torchkit.backbone import find_network
from torchkit.server import load_recogniser
from torchkit.system.client_file import build_system, load_client_file
from torchkit.system.contents import ServerReference
from torchkit.system.model import ProFaceC

MODEL_ROOT = Path(__file__).resolve().parents[2] / "model"
# The server that published client weights were trained with; their files do not say.
PUBLISHED_SERVER = "ir_101"


def load_system(
    path: Path, server: str | None = None, checkpoint: Path | None = None, channel_order: str | None = None
) -> ProFaceC:
    """Client and server.

    Args:
        path: client file, or published client state dict.
        server: name of the recogniser; None: as the file says.
        checkpoint: the recogniser's weights; None: where `find_checkpoint` finds them.
        channel_order: colours it is fed; None: as the file says.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or does not fit the other.
    """
    file = load_client_file(path)
    name, weights = find_server(file.server, server, checkpoint)
    recogniser = load_recogniser(name, weights, channel_order or file.server.channel_order)
    return build_system(file, recogniser, str(path))


def find_server(reference: ServerReference, server: str | None, checkpoint: Path | None) -> tuple[str, Path]:
    """Name and weights of a client's recogniser: those asked for, else what its file says.

    Raises:
        FileNotFoundError: as `find_checkpoint`.
    """
    name = server or reference.name or PUBLISHED_SERVER
    return name, find_checkpoint(reference, name) if checkpoint is None else checkpoint


def find_checkpoint(reference: ServerReference, server: str) -> Path:
    """Where the weights of `server` are: as the client file says, else under model/.

    Raises:
        FileNotFoundError: in none of these places.
    """
    places = []
    if reference.checkpoint is not None and server == reference.name:
        places += [reference.checkpoint, MODEL_ROOT / reference.checkpoint.name]
    default_checkpoint = find_network(server).default_checkpoint
    if default_checkpoint is not None:
        places.append(MODEL_ROOT / default_checkpoint)
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, dict.fromkeys(places))) or "nowhere"
    raise FileNotFoundError(
        f"no weights for the server {server}: looked at {looked}; give them with --server-checkpoint "
        "(model/README.md says where to get them)"
    )

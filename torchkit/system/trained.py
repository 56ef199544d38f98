"""Load a trained system: a client file, and the weights of its server wherever they are now."""

from __future__ import annotations

from pathlib import Path

from torchkit.backbone import find_network
from torchkit.server import load_recogniser
from torchkit.system.client_file import build_system, load_client_file
from torchkit.system.contents import ServerReference
from torchkit.system.model import ProFaceC

MODEL_ROOT = Path(__file__).resolve().parents[2] / "model"
# The server that published client weights were trained with; their files do not name it.
PUBLISHED_SERVER = "ir_101"


def load_system(
    path: Path, server: str | None = None, checkpoint: Path | None = None, channel_order: str | None = None
) -> ProFaceC:
    """Load client and server.

    Args:
        path: client file, or published client state dict.
        server: name of the recogniser; None: as in the file.
        checkpoint: the recogniser's weights; None: where `find_checkpoint` finds them.
        channel_order: colour order of its input; None: as in the file.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or does not fit the other.
    """
    file = load_client_file(path)
    name, weights = find_server(file.server, server, checkpoint)
    recogniser = load_recogniser(name, weights, channel_order or file.server.channel_order)
    return build_system(file, recogniser, str(path))


def find_server(reference: ServerReference, server: str | None, checkpoint: Path | None) -> tuple[str, Path]:
    """Return name and weights of a client's recogniser: the given ones, else those in its file.

    Raises:
        FileNotFoundError: as `find_checkpoint`.
    """
    name = server or reference.name or PUBLISHED_SERVER
    return name, find_checkpoint(reference, name) if checkpoint is None else checkpoint


def find_checkpoint(reference: ServerReference, server: str) -> Path:
    """Find the weights of `server`: at the path in the client file, else under model/.

    Raises:
        FileNotFoundError: they are in neither place.
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

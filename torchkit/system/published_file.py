"""Client state dicts as the authors of PRO-Face C published them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchkit.client import ClientSettings
from torchkit.system.contents import ClientFile, ServerReference

PUBLISHED_SHAPES = ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))
PUBLISHED_BLOCK_PX = 28
# The published client names its backbone's modules by position; this project's MobileFaceNet uses TFace's names.
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


def is_published(contents: Any) -> bool:
    """Whether the contents of a weight file are a published client."""
    return isinstance(contents, dict) and {"weight1", "channel_permutations"} <= set(contents)


def parse_published_file(contents: Mapping[str, Tensor], path: Path) -> ClientFile:
    """Parse a published client: RGB residual, taps resized to the server's maps, key in the first four of 784 rows.

    Raises:
        ValueError: an entry is missing or of another form.
    """
    try:
        return _parse(contents)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is a published client, but damaged: {error!r}; get it again") from error


def _parse(state: Mapping[str, Tensor]) -> ClientFile:
    client: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        if module == "client_backbone":
            stage, _, inner = rest.partition(".")
            if stage != "output_layer":  # it makes an embedding that is not used
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

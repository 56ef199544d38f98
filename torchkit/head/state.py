"""State of heads for a checkpoint that any number of processes can read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchkit.head.base import MarginHead, NoHead
from torchkit.util.weights import load_state


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """Collect the state of a module with heads, each with the rows of all classes; every process must call it.

    Everything but the heads' weights is the same on every process, and is returned as it is.
    """
    heads = _heads_by_weight(module)
    with torch.no_grad():
        return {key: heads[key].all_rows(x) if key in heads else x for key, x in module.state_dict().items()}


def load_full_state(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load what `full_state` returned, in any number of processes: each head takes the rows of its shard.

    Args:
        where: name of the state's file, for messages.

    Raises:
        ValueError: a missing, surplus or wrongly shaped entry, one with values that are not finite, or a head of a
            branch that has none here.
    """
    for name, part in module.named_modules():
        if isinstance(part, NoHead) and any(key.startswith(f"{name}.") for key in state):
            raise ValueError(
                f"{where} holds a head for DATASETS.{name}, which has none at weight 0; go on with the version that "
                "wrote it, or start from its weights instead with BACKBONE_RESUME"
            )
    own = dict(state)
    for key, head in _heads_by_weight(module).items():
        if isinstance(rows := state.get(key), Tensor):
            if rows.shape[:1] != (head.num_classes,):
                raise ValueError(
                    f"{where}: {key} has shape {tuple(rows.shape)}, expected a row for each of {head.num_classes} "
                    "identities; is it for other DATASETS?"
                )
            own[key] = head.own_rows(rows)
    load_state(module, own, where)


def _heads_by_weight(module: nn.Module) -> dict[str, MarginHead]:
    """The heads in a module (itself too) by the name of their weight in its state."""
    heads = ((name, part) for name, part in module.named_modules() if isinstance(part, MarginHead))
    return {f"{name}.weight" if name else "weight": head for name, head in heads}

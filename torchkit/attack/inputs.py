"""What attackers take of an observation (torchkit.system.observation), as the named inputs of a decoder.

An observation is written as its parts, joined by "+": "O", "O+e", "O+Z", "O+e+Z", "Z", ...

| part | is |
|---|---|
| O | the obfuscated image, as the server receives it |
| e | the recogniser's embedding of the clear image, which the server is to get |
| Z | the features as they are sent; beside O also what the server makes of both: compensated maps and embedding |
| Z_stolen_key | the same with the channels in their own order |
| Z_unquantised | the same before they were quantised |
| shallow | the recogniser's map of the clear image at its first tap, which nobody protects: a control |
| function | something of Z's form that is a function of O and e: a control |
| clear | the clear image: a control |

What is sent under another key than the attacker learned is recorded beside it, for people that are held out.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchkit.attack.adversary import FEATURES, feature_inputs
from torchkit.attack.decoder import IMAGE, InputShape
from torchkit.system import ProFaceC
from torchkit.system.observation import Observation, apply_shuffle, observe, undo_shuffle
from torchkit.util.pixels import INPUT_SIZE_PX
from torchkit.util.seeding import stream

FEATURE_VARIANTS = (FEATURES, "Z_stolen_key", "Z_unquantised")
WRONG_KEY_SUFFIX = "_wrong_key"
PARTS = (IMAGE, "e", *FEATURE_VARIANTS, "shallow", "function", "clear")
CLEAR_INPUT = "clear_image"
"""The clear image as an input; modules cannot be called "clear"."""
CONTROL_SEED = 20
"""Of the projections behind "function"."""


def parse_observation(text: str) -> tuple[str, ...]:
    """The parts of an observation.

    Raises:
        ValueError: an unknown part, one named twice, or features of two kinds.
    """
    parts = tuple(text.split("+"))
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(
            f"observation {text!r}: unknown part {unknown[0]!r}; allowed are {', '.join(PARTS)}, joined by +"
        )
    if len(set(parts)) < len(parts) or len(set(parts) & set(FEATURE_VARIANTS)) > 1:
        raise ValueError(f"observation {text!r}: name each part once, and one of {', '.join(FEATURE_VARIANTS)} at most")
    return parts


def check_observation(text: str) -> str:
    """`text` itself. Raises ValueError as `parse_observation`."""
    parse_observation(text)
    return text


class AttackInputs:
    """Computes what decoders take of the observations of one client.

    Args:
        system: client and server, in evaluation.
        wrong_key_seed: of the key that the features are sent under for `WRONG_KEY_SUFFIX`.
    """

    def __init__(self, system: ProFaceC, wrong_key_seed: int = 1) -> None:
        self.system = system.eval()
        client = system.client
        self.sent = [int(name) for name in client.tap_names if len(client.kept_channels(name))]
        """Taps that anything leaves, the embedding (5) among them."""
        self.compensated = client.sent_taps()
        """Those at which the server compensates a map."""
        self.has_key = any(str(tap) in client.shuffles for tap in self.sent)
        other = copy.deepcopy(client)
        other.draw_new_key(wrong_key_seed)
        self.wrong_key = other.shuffles

    def inputs(self, parts: Sequence[str]) -> dict[str, InputShape]:
        """Name -> shape of the decoder's inputs for an observation.

        Raises:
            ValueError: features of a client that sends none, or a key of one that has none.
        """
        inputs: dict[str, InputShape] = {}
        for part in parts:
            if part in FEATURE_VARIANTS:
                self._check_features(part)
                inputs |= self._feature_shapes(part)
                if IMAGE in parts:
                    shapes = self.system.recogniser.backbone.tap_shapes()
                    inputs |= {f"server{tap}": InputShape(tuple(shapes[tap - 1])) for tap in self.compensated}
                    inputs["server_embedding"] = InputShape((self.system.recogniser.embedding_size,))
            elif part == "function":
                inputs |= self._feature_shapes(part)
            elif part == "clear":
                inputs[CLEAR_INPUT] = InputShape((3, INPUT_SIZE_PX, INPUT_SIZE_PX))
            else:
                inputs[part] = self._plain_shape(part)
        return inputs

    def _plain_shape(self, part: str) -> InputShape:
        if part == "e":
            return InputShape((self.system.recogniser.embedding_size,))
        if part == "shallow":
            return InputShape(tuple(self.system.recogniser.backbone.tap_shapes()[0]))
        return InputShape((3, INPUT_SIZE_PX, INPUT_SIZE_PX))

    def _feature_shapes(self, variant: str) -> dict[str, InputShape]:
        """Those of the taps that are sent, under the names of a variant; in order, there are no blocks."""
        shapes = feature_inputs(self.system.client)
        shuffled = variant not in ("Z_stolen_key", "function")
        return {
            name.replace(FEATURES, variant, 1): shape if shuffled else InputShape(shape.shape)
            for name, shape in shapes.items()
        }

    def _check_features(self, part: str) -> None:
        if not self.sent:
            raise ValueError(f"observation with {part}: this client sends no features; attack O or O+e")
        if part == "Z_stolen_key" and not self.has_key:
            raise ValueError(f"observation with {part}: this client shuffles nothing, so that it has no key to steal")

    @torch.inference_mode()
    def arrays(self, clear: Tensor, obfuscated: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """The arrays called `names`, of faces (B, 3, 112, 112) uint8 RGB twice.

        Beside the decoder's inputs there are those of a message under another key: "Z1_wrong_key" and so on.
        """
        found = {IMAGE: obfuscated, "clear": clear, CLEAR_INPUT: clear}
        for pattern, make in (
            (r"e|shallow|function\d", self._recognised),
            (r"(Z|Z_stolen_key|server)\d|server_embedding", self._message),
            (r".*" + WRONG_KEY_SUFFIX, self._message_under_wrong_key),
            (r"Z_unquantised\d", self._unquantised),
        ):
            if any(re.fullmatch(pattern, name) for name in names):
                found |= make(clear, obfuscated)
        return {name: found[name] for name in names}

    def _recognised(self, clear: Tensor, obfuscated: Tensor) -> dict[str, Tensor]:
        """What the recogniser makes of the clear image, and functions of its embedding and the obfuscated image."""
        maps, embedding = self.system.recogniser.forward_intermediates(clear)
        unit = F.normalize(embedding)
        functions = {f"function{tap}": self._function(tap, obfuscated, unit) for tap in self.sent}
        return {"shallow": maps[0], "e": unit, **functions}

    def _message(self, clear: Tensor, obfuscated: Tensor) -> dict[str, Tensor]:
        """The features as sent, and with their key undone; what the server makes of the message."""
        sent = observe(self.system.client, clear, obfuscated)
        ordered = features_of(undo_shuffle(sent, self.system.client.shuffles))
        return self._received(sent) | {f"Z_stolen_key{tap}": ordered[tap - 1] for tap in self.sent}

    def _message_under_wrong_key(self, clear: Tensor, obfuscated: Tensor) -> dict[str, Tensor]:
        ordered = undo_shuffle(observe(self.system.client, clear, obfuscated), self.system.client.shuffles)
        arrays = self._received(apply_shuffle(ordered, self.wrong_key))
        return {name + WRONG_KEY_SUFFIX: array for name, array in arrays.items()}

    def _received(self, message: Observation) -> dict[str, Tensor]:
        """The features of a message; the server's maps and embedding of it."""
        features = features_of(message)
        maps, embedding = self.system.server.forward_intermediates(message.images, features)
        arrays = {f"Z{tap}": features[tap - 1] for tap in self.sent}
        arrays |= {f"server{tap}": maps[tap - 1] for tap in self.compensated}
        return arrays | {"server_embedding": F.normalize(embedding)}

    def _unquantised(self, clear: Tensor, obfuscated: Tensor) -> dict[str, Tensor]:
        client = self.system.client
        features = client.unquantised(client.prepare(clear, obfuscated))
        return {f"Z_unquantised{tap}": features[str(tap)] for tap in self.sent}

    def _function(self, tap: int, obfuscated: Tensor, embedding: Tensor) -> Tensor:
        """Of the features' shape: random mixtures of the obfuscated image's colours times random projections of e."""
        channels, height, width = self.system.client.feature_shapes[tap - 1]
        rng = stream(CONTROL_SEED, "function", tap)
        colours = torch.from_numpy(rng.standard_normal((channels, 3), np.float32)).to(embedding.device)
        projection = torch.from_numpy(rng.standard_normal((embedding.shape[1], channels), np.float32))
        small = F.adaptive_avg_pool2d(obfuscated.float() / 255, (height, width))
        return (
            torch.einsum("kc,bchw->bkhw", colours, small)
            * (embedding @ projection.to(embedding.device))[..., None, None]
        )


def features_of(observation: Observation) -> tuple[Tensor, ...]:
    assert observation.features is not None  # of a client that is known
    return observation.features

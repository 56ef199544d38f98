"""Networks of the package timm (PyTorch Image Models) as clients and recognisers, with fresh weights.

Any network works that is a chain of modules with maps at strides 4, 8, 16 and 32: most convolutional networks, and Swin
among the transformers. Nothing is downloaded. timm is imported only when one of its networks is requested, since the
import takes seconds.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from torchkit.backbone.base import NUM_TAPS, Backbone, Shape
from torchkit.util.pixels import INPUT_SIZE_PX

PREFIX = "timm/"
"""Prefix of the names of these networks, e.g. "timm/resnet18"."""
STRIDES = (4, 8, 16, 32)
"""Strides of the maps at the taps, in pixels of the image."""


def check_timm_name(name: str) -> None:
    """Raises ValueError: `name`, which begins with `PREFIX`, is not one of timm's networks."""
    known = _timm().list_models()
    if name.removeprefix(PREFIX) in known:
        return
    near = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=3, cutoff=0.4)
    hint = f"; the nearest are {', '.join(PREFIX + candidate for candidate in near)}." if near else "."
    raise ValueError(
        f"unknown backbone {name!r}{hint} Known are {PREFIX}NAME for the {len(known)} names that "
        "python -c 'import timm; print(timm.list_models())' prints"
    )


class TimmNetwork(Backbone):
    """One of timm's networks up to stride 32, with an output layer for faces.

    The output layer is MobileFaceNet's: a depth-wise convolution as large as the last map, so that each position has
    its own weight, and a linear map to the embedding.

    Args:
        name: timm's, e.g. "mobilenetv4_conv_small".
        embedding_size: length of the embedding.

    Shape: (B, 3, 112, 112) in [-1, 1] -> (B, embedding_size). Taps: the last maps at strides 4, 8, 16 and 32, at about
    28, 14, 7 and 4 pixels.

    Raises:
        ValueError: the network has no such maps, or does not take images of 112 pixels.
    """

    def __init__(self, name: str, embedding_size: int = 512) -> None:
        super().__init__()
        self.name = PREFIX + name
        self.embedding_size = embedding_size
        chain = _chain(name)
        self.ends = _ends(chain, self.name)
        self.maps_end_in_channels = chain.output_fmt.value == "NHWC"
        self.body = nn.ModuleDict(dict(list(chain.items())[: self.ends[-1]]))
        _separate_activations(self.body)
        self.output_layer: nn.Module = nn.Identity()
        channels, *size = self.tap_shapes()[-1]
        self.output_layer = nn.Sequential(
            nn.Conv2d(channels, channels, (size[0], size[1]), groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Linear(channels, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, affine=False),
        )

    def segments(self) -> Sequence[Sequence[nn.Module]]:
        modules = list(self.body.values())
        parts = [modules[start:end] for start, end in zip([0, *self.ends], self.ends, strict=False)]
        return [*parts, [self.output_layer]]

    def run_segment(self, index: int, x: Tensor) -> Tensor:
        if not self.maps_end_in_channels or index == NUM_TAPS:
            return super().run_segment(index, x)
        x = super().run_segment(index, x.permute(0, 2, 3, 1) if index else x)
        return x.permute(0, 3, 1, 2)

    def tap_shapes(self) -> list[Shape]:
        try:
            return super().tap_shapes()
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            remedy = "take another network"
            if self.input_channels != 3:  # a stem of several branches, of which one alone was widened
                remedy += ", or CLIENT.INPUT: residual"
            raise ValueError(
                f"{self.name} does not run on an image of {INPUT_SIZE_PX}x{INPUT_SIZE_PX} pixels and "
                f"{self.input_channels} channels ({(str(error).splitlines() or [type(error).__name__])[0]}); {remedy}"
            ) from error


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"backbones called {PREFIX}... need the package timm: pip install timm") from error
    return timm


def _chain(name: str) -> Any:
    """Build timm's network as a sequence of modules, a FeatureListNet.

    MobileNets and EfficientNets are built as other classes unless timm is told to flatten them.
    """
    timm = _timm()
    settings = timm.get_pretrained_cfg(name)
    size = {"img_size": INPUT_SIZE_PX} if settings is not None and settings.fixed_input_size else {}
    flattened = {"feature_cfg": {"feature_cls": "list", "flatten_sequential": True}}
    for options in ({}, flattened):
        try:
            network = timm.create_model(name, pretrained=False, features_only=True, **size, **options)
        except Exception:  # networks without such maps raise errors of many classes
            continue
        if isinstance(network, timm.models.FeatureListNet):
            return network
    raise ValueError(
        f"{PREFIX}{name} is no chain of modules that ends with maps at strides {_listed(STRIDES)}; take another "
        "network, e.g. timm/mobilenetv4_conv_small or timm/resnet18"
    )


def _ends(chain: Any, name: str) -> list[int]:
    """Count the modules of the chain up to the last map at each of the four strides."""
    names = list(chain)
    ends = dict(zip(chain.feature_info.reduction(), map(names.index, chain.return_layers), strict=True))
    if not set(STRIDES) <= set(ends):
        raise ValueError(
            f"{name} has maps at strides {_listed(ends)}, a backbone needs them at {_listed(STRIDES)}; take another "
            "network, e.g. timm/mobilenetv4_conv_small or timm/resnet18"
        )
    return [ends[stride] + 1 for stride in STRIDES]


def _separate_activations(network: nn.Module) -> None:
    """Split timm's batch norms with activation, since code that folds batch norms knows only plain ones."""
    from timm.layers import BatchNormAct2d

    for name, layer in list(network.named_modules()):
        if isinstance(layer, BatchNormAct2d):
            norm = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum)
            norm.load_state_dict({key: layer.state_dict()[key] for key in norm.state_dict()})
            network.set_submodule(name, nn.Sequential(norm, layer.drop, layer.act))


def _listed(numbers: Any) -> str:
    return ", ".join(map(str, numbers))

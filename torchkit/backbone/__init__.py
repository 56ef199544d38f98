"""The networks, by name: IR and IR-SE (AdaFace's), IResNet (InsightFace's), MobileFaceNet (TFace's), dlib's, timm's."""

from torchkit.backbone.base import NUM_TAPS, Backbone, Shape, resize
from torchkit.backbone.registry import NETWORKS, Network, canonical_name, find_network, get_model

__all__ = [
    "NETWORKS", "NUM_TAPS", "Backbone", "Network", "Shape", "canonical_name", "find_network", "get_model", "resize",
]  # fmt: skip

"""How far a reconstruction is from the clear image: absolute error, structure, and a recogniser's shallow maps."""

from __future__ import annotations

import torch.nn.functional as F
from pytorch_msssim import ssim
from torch import Tensor, nn

from torchkit.server import Recogniser


class ReconstructionLoss(nn.Module):
    """L1 + ssim_weight * (1 - SSIM) + perceptual_weight * relative error of a recogniser's maps at its first tap.

    Args:
        ssim_weight: of the structural similarity (Wang et al., IEEE TIP 2004).
        perceptual_weight: of the maps' error; 0 needs no recogniser.
        recogniser: whose maps these are; None: no maps are compared.

    Shape: reconstructed and clear images (B, 3, 112, 112) RGB in [0, 1] -> named losses, "loss" being their sum.
    """

    def __init__(
        self, ssim_weight: float, perceptual_weight: float = 0.0, recogniser: Recogniser | None = None
    ) -> None:
        super().__init__()
        if perceptual_weight and recogniser is None:
            raise ValueError(f"perceptual weight {perceptual_weight} without a recogniser: give one, or the weight 0")
        self.ssim_weight, self.perceptual_weight = ssim_weight, perceptual_weight
        self.recogniser = recogniser

    def forward(self, reconstructed: Tensor, clear: Tensor) -> dict[str, Tensor]:
        losses = {"l1": F.l1_loss(reconstructed, clear)}
        total = losses["l1"]
        if self.ssim_weight:
            losses["ssim_loss"] = 1 - ssim(reconstructed, clear, data_range=1.0)
            total = total + self.ssim_weight * losses["ssim_loss"]
        if self.perceptual_weight:
            losses["perceptual"] = self._map_error(reconstructed, clear)
            total = total + self.perceptual_weight * losses["perceptual"]
        return {"loss": total, **losses}

    def _map_error(self, reconstructed: Tensor, clear: Tensor) -> Tensor:
        assert self.recogniser is not None
        backbone = self.recogniser.backbone
        target = backbone.run_segment(0, self._prepared(clear)).detach()
        error = backbone.run_segment(0, self._prepared(reconstructed)) - target
        return error.square().mean() / target.square().mean()

    def _prepared(self, images: Tensor) -> Tensor:
        """[0, 1] RGB -> the backbone's [-1, 1] in its colour order; unlike `network_input`, with gradients."""
        assert self.recogniser is not None
        return (images.flip(1) if self.recogniser.channel_order == "bgr" else images) * 2 - 1

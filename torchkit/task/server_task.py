"""Train a recogniser on clear images, for use as a server where no pre-trained one is available."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.backbone import find_network, get_model
from torchkit.backbone.recogniser_file import save_recogniser_file
from torchkit.config import RecogniserConfig
from torchkit.data.index import Index, read_index
from torchkit.data.recognition_set import ClearSample, RecognitionSet
from torchkit.task.base import BaseTask
from torchkit.task.margin import make_heads, margin_loss
from torchkit.util.pixels import network_input
from torchkit.util.weights import load_state

logger = logging.getLogger("torchkit")


class ServerTask(BaseTask):
    """Minimise  sum_b weight_b * softmax_b(head_b(e)), e being the network's embedding of the clear image.

    BACKBONE_NAME is the network, SERVER.CHANNEL_ORDER the colour order of its input; b runs over DATASETS.
    """

    config: RecogniserConfig

    def build(self) -> None:
        config = self.config
        indices = [read_index(config.INDEX_ROOT, config.DATA_ROOT, data.name) for data in config.DATASETS]
        self.backbone = get_model(config.BACKBONE_NAME).to(self.device).to(memory_format=torch.channels_last)
        _check_embedding_size(config, self.backbone.embedding_size)
        order = config.SERVER.CHANNEL_ORDER
        self.channel_order = find_network(config.BACKBONE_NAME).channel_order if order == "auto" else order
        self.network = torch.compile(self.backbone) if config.COMPILE else self.backbone
        self.heads = make_heads(config, self.backbone.embedding_size, [index.num_classes for index in indices])
        self.heads.to(self.device)
        self._start_from_weights()
        self.load_from(RecognitionSet(indices, config.SEED), indices)
        self._describe(indices)

    def trained_modules(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "heads": self.heads}

    def losses(self, batch: ClearSample) -> dict[str, Tensor]:
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        embeddings = self.network(network_input(images, self.channel_order))  # (B, D), of any length
        return {"loss": margin_loss(self.config, self.heads, embeddings, labels)}

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Embed (B, 3, 112, 112) uint8 RGB -> (B, D), unit length, as the exported recogniser will."""
        self.backbone.eval()
        return F.normalize(self.backbone(network_input(images, self.channel_order)).float())

    def export(self, epoch: int | None) -> None:
        self.save_recogniser("recogniser.pth" if epoch is None else f"recogniser_epoch_{epoch:03d}.pth")
        if epoch is None:
            name, path = self.config.BACKBONE_NAME, self.config.MODEL_ROOT / "recogniser.pth"
            logger.info("as the server of a client: python train.py SERVER.NAME=%s SERVER.CHECKPOINT=%s", name, path)
            logger.info("its accuracy: python validation/server_main.py --server %s --server-checkpoint %s", name, path)

    def save_recogniser(self, name: str) -> None:
        """Write the current recogniser to MODEL_ROOT/name."""
        path = self.config.MODEL_ROOT / name
        save_recogniser_file(path, self.config.BACKBONE_NAME, self.backbone, self.channel_order, self.step)
        logger.info("recogniser after %d steps: %s", self.step, path)

    def _start_from_weights(self) -> None:
        path = self.config.BACKBONE_RESUME
        if path is not None:
            weights = find_network(self.config.BACKBONE_NAME).read_weights(path)
            load_state(self.backbone, weights, f"BACKBONE_RESUME = {path}")

    def _describe(self, indices: list[Index]) -> None:
        logger.info("device: %s", self.device)
        for index in indices:
            logger.info("data: %s, %s images, %s identities", index.file, f"{len(index):,}", f"{index.num_classes:,}")
        parameters = sum(parameter.numel() for parameter in self.backbone.parameters())
        logger.info(
            "recogniser: %s, %s parameters, %s", self.config.BACKBONE_NAME, f"{parameters:,}", self.channel_order
        )
        logger.info("%s steps an epoch, %d images a step", f"{self.steps_per_epoch:,}", self.images_per_step)


def _check_embedding_size(config: RecogniserConfig, size: int) -> None:
    if config.EMBEDDING_SIZE not in (None, size):
        raise ValueError(
            f"EMBEDDING_SIZE = {config.EMBEDDING_SIZE}, but a server called {config.BACKBONE_NAME} has embeddings of "
            f"{size}; set that, or leave the key out"
        )

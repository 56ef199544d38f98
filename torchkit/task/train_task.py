"""Train a PRO-Face C client and compensation weights against a frozen recogniser."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkit.attack.adversary import observed_batch
from torchkit.backbone import NUM_TAPS, find_network, get_model
from torchkit.client import Client, ClientSettings
from torchkit.client.calibrate import count_frequencies
from torchkit.client.model import widen_input
from torchkit.config import ClientConfig
from torchkit.config.client import PruneConfig, QuantizeConfig
from torchkit.data.index import Index, read_index
from torchkit.data.training_set import Sample, TrainingSet, sample_batches
from torchkit.loss import DISTILLATIONS, distribution_distillation, map_error, weighted_map_error
from torchkit.server import Recogniser, load_recogniser
from torchkit.server.sensitivity import map_sensitivities
from torchkit.system import ProFaceC, ServerReference, load_client_file, save_client_file, system_cost
from torchkit.task.adversary import Adversary
from torchkit.task.base import BaseTask
from torchkit.task.embedding_start import start_embedding
from torchkit.task.margin import labels_over_branches, make_heads, margin_loss
from torchkit.util.distributed import gather, is_main
from torchkit.util.pixels import to_batch
from torchkit.util.weights import load_state

logger = logging.getLogger("torchkit")

SENSITIVITY_IMAGES = 256
"""Training images from which the sensitivities of the maps are estimated."""
EMBEDDING_START_IMAGES = 2500
"""Training images by which the embedding's map is fitted."""
CLEAR_BATCH = 32
COMPRESSION = ("pruners.", "quantisers.", "frequencies.")
"""How the names of a client's compression begin in its state."""
COUNTED_IMAGES = 1024
"""Of each branch: by what the client sends for them the frequencies of its codes are counted."""


class TrainTask(BaseTask):
    """Minimises  sum_b weight_b * softmax_b(head_b(e))  +  WEIGHT * d(e, e_clear)  +  MAP_WEIGHT * map_error.

    e is the server's embedding of the obfuscated image compensated with the client's features, e_clear its
    embedding of the clear image, b runs over DATASETS. For the first MAP_EPOCHS epochs it minimises the error of the
    map at the last tap that is sent, alone. With ADVERSARY.WEIGHT the excess of decoders that are trained alongside is
    added, from the first step on (torchkit.task.adversary).

    Args:
        config: the experiment.
        resume: go on from the newest good checkpoint in MODEL_ROOT, if there is one.
        new_key: start from the client of BACKBONE_RESUME, but with a new key.
    """

    config: ClientConfig

    def __init__(self, config: ClientConfig, resume: bool = False, new_key: bool = False) -> None:
        self.new_key = new_key
        super().__init__(config, resume)

    def build(self) -> None:
        config = self.config
        indices = [read_index(config.INDEX_ROOT, config.DATA_ROOT, data.name) for data in config.DATASETS]
        recogniser = load_recogniser(config.SERVER.NAME, config.SERVER.CHECKPOINT, config.SERVER.CHANNEL_ORDER)
        _check_embedding_size(config, recogniser)
        self.system = ProFaceC(build_client(config, recogniser), recogniser, config.COMPENSATION).to(self.device)
        self.system.to(memory_format=torch.channels_last)
        self.compensated = torch.compile(self._compensated) if config.COMPILE else self._compensated
        if config.CLIENT.EMBEDDING_START == "ridge" and config.BACKBONE_RESUME is None:
            start_embedding(self.system, self._clear_images(indices[0], EMBEDDING_START_IMAGES))
        self._start_from_client()
        self.sensitivities = self._sensitivities(indices[0])
        self.num_classes = [index.num_classes for index in indices]
        self.heads = make_heads(config, recogniser.embedding_size, self.num_classes)
        self.heads.to(self.device)
        quality = config.CLIENT.IMAGE_QUALITY
        self.training_set = TrainingSet(indices, config.OBFUSCATION, config.SEED, quality, config.CAMERA)
        self.load_from(self.training_set, indices)
        self.adversary = self._make_adversary()
        self._describe(indices)

    def trained_modules(self) -> dict[str, nn.Module]:
        return {**self.system.trained_modules(), "heads": self.heads}

    def losses(self, batch: Sample) -> dict[str, Tensor]:
        self.system.client.set_progress(self._progress(self.config.PRUNE), self._progress(self.config.QUANTIZE))
        clear, obfuscated, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        settings = self.config.DISTILLATION
        if self._epochs_done < settings.MAP_EPOCHS:
            return self._map_losses(clear, obfuscated)
        with torch.no_grad():
            target_maps, target = self.system.recogniser.forward_intermediates(clear)  # (B, C_i, H_i, W_i), (B, D)
            target = F.normalize(target)
        features, maps, embeddings = self.compensated(clear, obfuscated)
        margin = margin_loss(self.config, self.heads, embeddings, labels)  # heads normalise; AdaFace's needs the norm
        embeddings = F.normalize(embeddings)
        distillation = DISTILLATIONS[settings.FORM](embeddings, target)
        losses = {"margin_softmax": margin, "distillation": distillation}
        total = margin + settings.WEIGHT * distillation
        if settings.MAP_WEIGHT:
            losses["map_error"] = self._map_error(maps, target_maps)
            total = total + settings.MAP_WEIGHT * losses["map_error"]
        if settings.DDL_WEIGHT:
            everyone = labels_over_branches(self.config, self.num_classes, labels)
            losses["ddl"] = distribution_distillation(gather(embeddings), gather(target), gather(everyone))
            total = total + settings.DDL_WEIGHT * losses["ddl"]
        return self._with_excess({"loss": total, **losses}, clear, obfuscated, features, target)

    def _map_losses(self, clear: Tensor, obfuscated: Tensor) -> dict[str, Tensor]:
        """Of the first MAP_EPOCHS epochs: the error of the map at the last tap that is sent, no further than which the
        server is run."""
        recogniser, count = self.system.recogniser, self.system.client.sent_taps()[-1]
        with torch.no_grad():
            targets = recogniser.backbone.taps(recogniser.prepare(clear), count)
        features = self.system.features(clear, obfuscated)
        maps = self.system.server.taps(obfuscated, features, count)
        error = self._map_error(maps, targets, first=count - 1)
        losses = {"loss": self.config.DISTILLATION.MAP_WEIGHT * error, "map_error": error}
        return self._with_excess(losses, clear, obfuscated, features)

    def _with_excess(
        self, losses: dict[str, Tensor], clear: Tensor, obfuscated: Tensor, features: list[Tensor],
        target: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Named losses with those of the decoders, whose excess counts in the total; as they are without decoders.

        Args:
            losses: so far.
            clear, obfuscated: images (B, 3, 112, 112) uint8 RGB.
            features: as they leave.
            target: (B, D) embeddings of the clear images, unit length; None: not known yet.
        """
        if self.adversary is None:
            return losses
        if target is None:
            with torch.no_grad():
                target = self.system.recogniser(clear)
        decoders = self.adversary.losses(observed_batch(clear, obfuscated, target, features))
        total = losses["loss"] + self.config.ADVERSARY.weight * decoders["excess"]
        return {**losses, **decoders, "loss": total}

    def _map_error(self, maps: Sequence[Tensor], targets: Sequence[Tensor], first: int = 0) -> Tensor:
        """Of the maps from tap `first` (0..3) on."""
        if self.sensitivities is None:
            return map_error(maps[first:], targets[first:])
        return weighted_map_error(maps[first:], targets[first:], self.sensitivities[first : len(maps)])

    def _sensitivities(self, index: Index) -> list[Tensor] | None:
        """Of the recogniser's maps, over images from all of an index; None where MAP_WEIGHTING asks for none."""
        if self.config.DISTILLATION.MAP_WEIGHTING == "uniform":
            return None
        return map_sensitivities(self.system.recogniser, list(self._clear_images(index, SENSITIVITY_IMAGES)))

    def _clear_images(self, index: Index, count: int) -> Iterator[Tensor]:
        """Batches (B, 3, 112, 112) uint8 RGB of up to `count` images, evenly spread over an index, on the device."""
        positions = np.linspace(0, len(index) - 1, min(len(index), count)).round().astype(int).tolist()
        for start in range(0, len(positions), CLEAR_BATCH):
            batch = positions[start : start + CLEAR_BATCH]
            yield to_batch([index.read(position) for position in batch]).to(self.device)

    def _compensated(self, clear: Tensor, obfuscated: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The client's features, and the server's compensated maps and embedding."""
        features = self.system.features(clear, obfuscated)
        return features, *self.system.server.forward_intermediates(obfuscated, features)

    def train_one_step(self, batches: Sequence[Any]) -> dict[str, float]:
        metrics = super().train_one_step(batches)
        if self.adversary is not None:
            self.adversary.learn()
        return metrics

    def companion_state(self) -> dict[str, Any]:
        return {} if self.adversary is None else {"adversary": self.adversary.state()}

    def load_companion_state(self, state: Mapping[str, Any], where: str) -> None:
        if self.adversary is not None:
            self.adversary.load(state["adversary"], where)

    def _make_adversary(self) -> Adversary | None:
        """The decoders that the client is trained against; None where they count nothing."""
        settings = self.config.ADVERSARY
        return Adversary(self.system, settings, self.amp_dtype, self.config.COMPILE) if settings.weight else None

    def export(self, epoch: int | None) -> None:
        path = self.save_client("client.pth" if epoch is None else f"client_epoch_{epoch:03d}.pth")
        if epoch is None and self.config.VAL_DATA_ROOT is not None:
            command = f"python validation/val_main.py --backbone-resume {path} --data-root {self.config.VAL_DATA_ROOT}"
            logger.info("its accuracy: %s", command)

    @property
    def _epochs_done(self) -> float:
        """With the part of the present one."""
        return self.step / self.steps_per_epoch

    def _progress(self, settings: PruneConfig | QuantizeConfig) -> float:
        """How far along its ramp: 0 up to START_EPOCH, 1 from the end of RAMP_EPOCHS on."""
        epochs = self._epochs_done - settings.START_EPOCH
        return float(epochs >= 0) if settings.RAMP_EPOCHS == 0 else min(1.0, max(0.0, epochs / settings.RAMP_EPOCHS))

    def save_client(self, name: str) -> Path:
        """Write the client as it is now to MODEL_ROOT/name."""
        server = self.config.SERVER
        reference = ServerReference(server.NAME, server.CHECKPOINT, server.CHANNEL_ORDER)
        path = self.config.MODEL_ROOT / name
        self._count_frequencies()
        save_client_file(path, self.system, reference, self.step)
        logger.info("client after %d steps: %s", self.step, path)
        return path

    def _count_frequencies(self) -> None:
        """Count how often the client's codes occur, if its messages are coded by that."""
        if self.system.client.frequencies:
            unseen_epoch = self.config.NUM_EPOCH
            batches = sample_batches(self.training_set, unseen_epoch, COUNTED_IMAGES)
            count_frequencies(
                self.system.client,
                ((batch.clear.to(self.device), batch.obfuscated.to(self.device)) for batch in batches),
            )

    def _start_from_client(self) -> None:
        path = self.config.BACKBONE_RESUME
        if path is None:
            if self.new_key:
                raise ValueError("--new-key without BACKBONE_RESUME: a client that starts afresh has a new key anyway")
            return
        file, client = load_client_file(path), self.system.client
        if file.settings.without_compression() != client.settings.without_compression():
            raise ValueError(
                f"BACKBONE_RESUME = {path} was made with {file.settings}, but this configuration asks for "
                f"{client.settings}; make BACKBONE_NAME, SERVER, CLIENT and SHUFFLE agree with it"
            )
        if file.compensation_settings != self.system.server.compensation.settings:
            raise ValueError(
                f"BACKBONE_RESUME = {path} was made with {file.compensation_settings}, but this configuration asks for "
                f"{self.system.server.compensation.settings}; make COMPENSATION agree with it"
            )
        if file.settings.last_tap < client.settings.last_tap:
            raise ValueError(
                f"BACKBONE_RESUME = {path} ends after tap {file.settings.last_tap}, but this configuration sends tap "
                f"{client.settings.last_tap}; set PRUNE.CHANNELS to 1 for what follows, or start from a longer client"
            )
        weights = file.client
        if file.settings != client.settings:  # compression starts anew
            own = client.state_dict()
            weights = own | {k: v for k, v in weights.items() if k in own and not k.startswith(COMPRESSION)}
        load_state(client, weights, f"BACKBONE_RESUME = {path}")
        load_state(self.system.server.compensation, file.compensation, f"BACKBONE_RESUME = {path}, compensation")
        if self.new_key:
            self.system.client.draw_new_key(self.config.SHUFFLE.SEED)

    def _describe(self, indices: list[Index]) -> None:
        client = self.system.client
        values = sum(c * h * w for c, h, w in client.feature_shapes)
        logger.info("device: %s", self.device)
        for index in indices:
            logger.info("data: %s, %s images, %s identities", index.file, f"{len(index):,}", f"{index.num_classes:,}")
        logger.info(
            "client: %s, %s layout, %s feature values an image",
            self.config.BACKBONE_NAME, client.settings.layout, f"{values:,}",
        )  # fmt: skip
        logger.info("server: %s, frozen", self.config.SERVER.NAME)
        if is_main():
            log_cost(self.system)
        logger.info("%s steps an epoch, %d images a step", f"{self.steps_per_epoch:,}", self.images_per_step)


def build_client(config: ClientConfig, recogniser: Recogniser) -> Client:
    """The client that a configuration asks for, with fresh weights or those of CLIENT.INIT."""
    settings = ClientSettings(
        server_shapes=tuple(recogniser.backbone.tap_shapes()),
        backbone=config.BACKBONE_NAME,
        layout=config.CLIENT.LAYOUT,
        channel_order=config.CLIENT.CHANNEL_ORDER,
        input=config.CLIENT.INPUT,
        bottleneck=config.CLIENT.BOTTLENECK,
        bits=tuple(map(int, config.QUANTIZE.BITS)),
        pruned_channels=config.PRUNE.CHANNELS,
        pruned_values=config.PRUNE.VALUES,
        image_quality=config.CLIENT.IMAGE_QUALITY,
        last_tap=_last_tap(config),
        embedding_size=recogniser.embedding_size if config.CLIENT.EMBEDDING else 0,
        embedding_bits=config.QUANTIZE.EMBEDDING_BITS,
        coding=config.QUANTIZE.CODING,
        shuffle_taps=config.SHUFFLE.TAPS,
        shuffle_block_px=config.SHUFFLE.BLOCK_PX,
    )
    client = Client(settings, config.SHUFFLE.SEED)
    client.start_interfaces(config.CLIENT.INTERFACE)
    if config.CLIENT.INIT is not None:
        _copy_backbone(config.CLIENT.INIT, client)
    if config.CLIENT.FREEZE_NORMS:
        client.freeze_norms()
    return client


def _last_tap(config: ClientConfig) -> int:
    """The last tap (0..4) that the client needs: later ones, all of whose channels are to be pruned, are left out."""
    if config.CLIENT.EMBEDDING:
        return NUM_TAPS
    return max((tap for tap, share in enumerate(config.PRUNE.CHANNELS, start=1) if share < 1), default=0)


def _copy_backbone(path: Path, client: Client) -> None:
    """Start the client's backbone from the weights of a whole network of the same kind."""
    where = f"CLIENT.INIT = {path}"
    donor = get_model(client.settings.backbone)
    load_state(donor, find_network(client.settings.backbone).read_weights(path), where)
    if client.settings.input == "both":
        widen_input(donor)
    client.backbone.load_state_dict({key: donor.state_dict()[key] for key in client.backbone.state_dict()})


def log_cost(system: ProFaceC) -> None:
    """Tell what client and server cost for one face, and warn of a client that is no lighter than it should be."""
    cost = system_cost(system)
    logger.info("cost of the client: %s", cost.client)
    logger.info("cost of the server: %s", cost.server)
    if warning := cost.warning():
        logger.warning("%s", warning)


def _check_embedding_size(config: ClientConfig, recogniser: Recogniser) -> None:
    if config.EMBEDDING_SIZE not in (None, recogniser.embedding_size):
        raise ValueError(
            f"EMBEDDING_SIZE = {config.EMBEDDING_SIZE}, but {config.SERVER.NAME} gives embeddings of "
            f"{recogniser.embedding_size}; set that, or leave the key out"
        )

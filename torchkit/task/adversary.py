"""Training against decoders: the client pays for what its features show that the server need not know.

    term = max(0, loss of the decoder of (O, e) - loss of the decoder of (O, e, Z))

In a step the client is judged by decoders that have not seen the batch; then they learn from it. The client's gradient
goes through the decoder of (O, e, Z), whose weights it leaves alone, and theirs does not reach the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchkit.attack.adversary import SSIM_WEIGHT, AdversarySettings, ObservedBatch, make_decoders
from torchkit.attack.decoder import Decoder
from torchkit.attack.losses import ReconstructionLoss
from torchkit.system import ProFaceC
from torchkit.task.parallel import Gradients, join_processes, means_with_gradient
from torchkit.util.device import autocast
from torchkit.util.weights import load_state, plain_state

WEIGHT_DECAY = 1e-4
CLIP_NORM = 1.0
"""To which the norm of a decoder's gradient is clipped."""


class Attacker:
    """A decoder with its optimiser. Its weights need gradients only while it learns.

    Args:
        decoder: on its device.
        learning_rate: constant over the run.
        dtype: of mixed precision, or None.
        compiled: run the decoder through torch.compile.
    """

    def __init__(self, decoder: Decoder, learning_rate: float, dtype: torch.dtype | None, compiled: bool) -> None:
        self.decoder, self.dtype = decoder, dtype
        self.device = decoder.mean_image.device
        self.parameters = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
        join_processes([decoder])
        self.optimizer = torch.optim.AdamW(self.parameters, learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        self.gradients = Gradients(self.optimizer, [decoder])
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.network = torch.compile(decoder) if compiled else decoder
        self.loss = ReconstructionLoss(SSIM_WEIGHT)
        self._learns(False)

    def reconstruction_loss(self, batch: ObservedBatch) -> Tensor:
        """How far its reconstructions are from the clear images, mean over this process's part of the batch."""
        with autocast(self.dtype, self.device):
            reconstructed = self.network({name: batch.inputs[name] for name in self.decoder.inputs})
        with torch.autocast(self.device.type, enabled=False):
            return self.loss(reconstructed.float(), batch.clear)["loss"]

    def learn(self, batches: Sequence[ObservedBatch]) -> None:
        """One update with the mean gradient of batches."""
        self._learns(True)
        self.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            self.scaler.scale(self.reconstruction_loss(batch) / len(batches)).backward()
        self.gradients.average()
        self.scaler.unscale_(self.optimizer)
        self.gradients.clip(CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._learns(False)

    def _learns(self, learns: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(learns)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "decoder": plain_state(self.decoder),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any], where: str) -> None:
        """Go on from what `state` gave. Raises ValueError for a state of another decoder."""
        load_state(self.decoder, state["decoder"], where)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


class Adversary:
    """The decoders of (O, e) and of (O, e, Z) that a client is trained against.

    Args:
        system: client and server, on their device.
        settings: of the decoders; their weight counts in the client's loss alone.
        dtype: of mixed precision, or None.
        compiled: run the decoders through torch.compile.
    """

    def __init__(
        self, system: ProFaceC, settings: AdversarySettings, dtype: torch.dtype | None, compiled: bool
    ) -> None:
        self.settings = settings
        device = next(system.parameters()).device
        baseline, informed = (
            Attacker(decoder.to(device).to(memory_format=torch.channels_last), settings.lr, dtype, compiled)
            for decoder in make_decoders(system, settings.width)
        )
        self.attackers = {"baseline": baseline, "informed": informed}
        self.observed: list[ObservedBatch] = []
        """Batches of this step, from which the decoders will learn."""

    def losses(self, batch: ObservedBatch) -> dict[str, Tensor]:
        """The decoders' losses on a batch, and the excess, with a gradient for the client: means over all processes.

        The batch is kept for `learn`.
        """
        with torch.no_grad():
            baseline = self.attackers["baseline"].reconstruction_loss(batch)
        informed = self.attackers["informed"].reconstruction_loss(batch)
        self.observed.append(batch.detach())
        baseline, informed = means_with_gradient(torch.stack([baseline, informed])).unbind()
        excess = (baseline - informed).clamp(min=0)
        return {"decoder_O_e": baseline.detach(), "decoder_O_e_Z": informed.detach(), "excess": excess}

    def learn(self) -> None:
        """Let both decoders take their steps on the batches whose losses were asked for since the last call."""
        for _ in range(self.settings.steps):
            for attacker in self.attackers.values():
                attacker.learn(self.observed)
        self.observed = []

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {name: attacker.state() for name, attacker in self.attackers.items()}

    def load(self, state: dict[str, Any], where: str) -> None:
        """Go on from what `state` gave. Raises ValueError for a state of other decoders."""
        for name, attacker in self.attackers.items():
            attacker.load(state[name], f"{where}, adversary, {name}")

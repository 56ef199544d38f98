"""The client: residual in, auxiliary features out, and the key that shuffles them."""

from torchkit.client.model import LAYOUTS, Client, ClientSettings
from torchkit.client.shuffle import BlockChannelShuffle

__all__ = ["LAYOUTS", "BlockChannelShuffle", "Client", "ClientSettings"]

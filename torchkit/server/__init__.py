"""The server: a frozen, pre-trained recogniser, and its compensation with a client's features."""

from torchkit.server.compensation import CompensatedServer, Compensation
from torchkit.server.recogniser import RECOGNISERS, Recogniser, load_recogniser

__all__ = ["RECOGNISERS", "CompensatedServer", "Compensation", "Recogniser", "load_recogniser"]

"""The server: a frozen, pre-trained recogniser, and its compensation with a client's features."""

from torchkit.server.compensation import CompensatedServer, Compensation, CompensationSettings
from torchkit.server.recogniser import Recogniser, load_recogniser

__all__ = ["CompensatedServer", "Compensation", "CompensationSettings", "Recogniser", "load_recogniser"]

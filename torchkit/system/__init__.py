"""Client and server as one network, and its files."""

from torchkit.system.client_file import (
    build_system,
    load_client_file,
    restore_client,
    save_client_file,
    save_phone_file,
)
from torchkit.system.contents import ClientFile, ServerReference
from torchkit.system.cost import SystemCost, recogniser_cost, system_cost
from torchkit.system.model import ProFaceC
from torchkit.system.server_file import load_server_file, save_server_file
from torchkit.system.trained import MODEL_ROOT, find_checkpoint, find_server, load_system

__all__ = [
    "MODEL_ROOT",
    "ClientFile",
    "ProFaceC",
    "ServerReference",
    "SystemCost",
    "build_system",
    "find_checkpoint",
    "find_server",
    "load_client_file",
    "load_server_file",
    "load_system",
    "recogniser_cost",
    "restore_client",
    "save_client_file",
    "save_phone_file",
    "save_server_file",
    "system_cost",
]

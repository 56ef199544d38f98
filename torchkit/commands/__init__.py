"""The programs behind python -m torchkit.client, torchkit.server and torchkit.data.prepare, a module a command."""

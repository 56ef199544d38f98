"""Prepare data from where it comes to what training and evaluation read: python -m torchkit.data.prepare COMMAND."""

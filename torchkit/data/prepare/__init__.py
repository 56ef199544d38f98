"""Convert data sets to the forms that training and evaluation read: python -m torchkit.data.prepare COMMAND."""

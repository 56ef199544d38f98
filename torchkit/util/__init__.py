"""Small tools that every other package may use: files, seeds, checkpoints, pixels, meters."""

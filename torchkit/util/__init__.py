"""Small tools that every other room may use: files, seeds, checkpoints, pixels, meters."""

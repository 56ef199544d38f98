"""Utilities for all packages: files, weights, processes, devices, seeds, pixels, commands."""

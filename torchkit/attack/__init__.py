"""Attackers: what they see of a face, and the decoders that reconstruct its clear image from it."""

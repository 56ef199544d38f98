"""What is measured of a system: embeddings and the bytes of messages."""

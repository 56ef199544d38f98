"""PRO-Face C: recognise a face that the server never sees in the clear (doi 10.1109/TIFS.2024.3388976)."""

__version__ = "0.1.0"

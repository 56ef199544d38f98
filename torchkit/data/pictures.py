"""Picture files that come from elsewhere: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from torchkit.util.pixels import decode_image, decode_rgb

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Of files that count as pictures, in lower case."""
JPEG_OPTIONS = (
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip


def read_whole(path: Path, name: str) -> bytes:
    """The bytes of a picture file whose end is there.

    OpenCV fills what is missing of a torn JPEG with grey, in some versions without an error.

    Args:
        path: the file.
        name: how messages call it.

    Raises:
        FileNotFoundError: it cannot be read.
        ValueError: it is empty or cut off.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"{name} cannot be read: {error.strerror}: {path}") from None
    if not data:
        raise ValueError(f"{name} is empty: 0 bytes; copy it again or take it out of the list")
    if is_cut_off(data):
        raise ValueError(f"{name} is cut off after {len(data)} bytes; copy it again or take it out of the list")
    return data


def is_cut_off(data: bytes) -> bool:
    """Whether the last scan of a JPEG, or the chunks of a PNG, have no end."""
    if data.startswith(b"\xff\xd8"):  # neither marker occurs inside a scan
        return data.rfind(b"\xff\xd9") < max(data.rfind(b"\xff\xda"), 2)
    return data.startswith(b"\x89PNG") and b"IEND" not in data


def read_picture(path: Path, name: str) -> np.ndarray:
    """A picture of any size, (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError, ValueError: it cannot be read or decoded; the message begins with `name`.
    """
    image = decode_rgb(read_whole(path, name))
    if image is None:
        raise ValueError(f"{name} cannot be decoded as a picture; replace it or take it out of the list")
    return image


def read_face(path: Path, name: str) -> np.ndarray:
    """An aligned face, (112, 112, 3) uint8 RGB.

    Raises:
        FileNotFoundError, ValueError: it cannot be read or decoded, or is not 112x112; the message begins with `name`.
    """
    return decode_image(read_whole(path, name), name)


def encode_jpeg(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> a JPEG of quality 95, colours at full resolution."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), JPEG_OPTIONS)
    assert done
    return data.tobytes()

"""Read and check image files, and write JPEGs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from torchkit.util.pixels import decode_image, decode_rgb

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Extensions of image files, in lower case."""
JPEG_OPTIONS = (
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip


def read_bytes(path: Path, name: str) -> bytes:
    """Read the bytes of an image file; `name` is its name in messages.

    Raises:
        FileNotFoundError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"{name} cannot be read: {error.strerror}: {path}") from None


def check_whole(data: bytes, name: str) -> None:
    """Check that an encoded image is complete.

    OpenCV fills the missing part of a torn JPEG with grey, in some versions without an error.

    Raises:
        ValueError: it is empty or cut off; the message begins with `name`.
    """
    if not data:
        raise ValueError(f"{name} is empty: 0 bytes; copy it again or take it out of the list")
    if is_cut_off(data):
        raise ValueError(f"{name} is cut off after {len(data)} bytes; copy it again or take it out of the list")


def is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end marker."""
    if data.startswith(b"\xff\xd8"):  # neither marker occurs inside a scan
        return data.rfind(b"\xff\xd9") < max(data.rfind(b"\xff\xda"), 2)
    return data.startswith(b"\x89PNG") and b"IEND" not in data


def read_image(path: Path, name: str) -> np.ndarray:
    """Read an image of any size as (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError, ValueError: it cannot be read or decoded; the message begins with `name`.
    """
    data = read_bytes(path, name)
    check_whole(data, name)
    image = decode_rgb(data)
    if image is None:
        raise ValueError(f"{name} cannot be decoded as an image; replace it or take it out of the list")
    return image


def read_face(path: Path, name: str) -> np.ndarray:
    """Read an aligned face as (112, 112, 3) uint8 RGB.

    Raises:
        FileNotFoundError, ValueError: it cannot be read or decoded, or is not 112x112; the message begins with `name`.
    """
    return decode_face(read_bytes(path, name), name)


def decode_face(data: bytes, name: str) -> np.ndarray:
    """Decode an aligned face to (112, 112, 3) uint8 RGB.

    Raises:
        ValueError: it is cut off, cannot be decoded, or is not 112x112; the message begins with `name`.
    """
    check_whole(data, name)
    return decode_image(data, name)


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 RGB as a JPEG of quality 95, with colours at full resolution."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), JPEG_OPTIONS)
    assert done
    return data.tobytes()

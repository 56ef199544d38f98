"""dlib's recogniser: its file format, written here anew, and the network against a naive re-derivation."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchkit.backbone.dlib_resnet import DlibResNet, FaceChip, read_dlib_weights
from torchkit.server import load_recogniser

# dlib's anet_type from input to output: (channels, down) of each residual block after the 7x7 stem.
BLOCKS = [(32, False)] * 3 + [(64, True)] + [(64, False)] * 3 + [(128, True)] + [(128, False)] * 2
BLOCKS += [(256, True)] + [(256, False)] * 2 + [(256, True)]
RGB_MEAN = np.array([122.782, 117.001, 104.298])


class Layer:
    """A layer with parameters as it stands in the file: its marker and its values, in dlib's order."""

    def __init__(self, marker: str, values: np.ndarray, inputs: int, outputs: int, kernel: int = 0) -> None:
        self.marker, self.values = marker, values.astype("<f4")
        self.inputs, self.outputs, self.kernel = inputs, outputs, kernel

    def convolution(self) -> tuple[Tensor, Tensor]:
        filters = self.outputs * self.inputs * self.kernel**2
        flat = torch.from_numpy(self.values.copy())
        return flat[:filters].view(self.outputs, self.inputs, self.kernel, self.kernel), flat[filters:]

    def affine(self) -> tuple[Tensor, Tensor]:
        flat = torch.from_numpy(self.values.copy())
        return flat[: self.outputs].view(-1, 1, 1), flat[self.outputs :].view(-1, 1, 1)


def random_layers() -> list[Layer]:
    rng = np.random.default_rng(0)

    def convolution(inputs: int, outputs: int, kernel: int) -> Layer:
        filters = rng.normal(0, (1.5 / (inputs * kernel**2)) ** 0.5, outputs * inputs * kernel**2)
        return Layer("con_4", np.append(filters, rng.normal(0, 0.1, outputs)), inputs, outputs, kernel)

    def affine(channels: int) -> Layer:
        scale, shift = rng.normal(0.8, 0.2, channels), rng.normal(0, 0.1, channels)
        return Layer("affine_", np.append(scale, shift), channels, channels)

    layers = [convolution(3, 32, 7), affine(32)]
    channels = 32
    for outputs, _ in BLOCKS:
        layers += [
            convolution(channels, outputs, 3),
            affine(outputs),
            convolution(outputs, outputs, 3),
            affine(outputs),
        ]
        channels = outputs
    layers.append(Layer("fc_2", rng.normal(0, 0.1, 256 * 128), 256, 128))
    return layers


def integer(value: int) -> bytes:
    """dlib's integers: a byte with the length and the sign, then the magnitude, little-endian."""
    length = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([length | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(length, "little")


def string(text: str) -> bytes:
    return integer(len(text)) + text.encode()


def tensor(values: np.ndarray, shape: tuple[int, ...], version: int = 2) -> bytes:
    return integer(version) + b"".join(map(integer, shape)) + values.tobytes()


def serialised(layer: Layer) -> bytes:
    """A layer's record: marker, tensor, and what else dlib keeps of it."""
    if layer.marker == "con_4":
        settings = [layer.outputs, layer.kernel, layer.kernel, 1, 1, 0, 0]
        record = tensor(layer.values, (len(layer.values), 1, 1, 1)) + b"".join(map(integer, settings))
    elif layer.marker == "affine_":
        record = tensor(layer.values, (len(layer.values), 1, 1, 1)) + integer(1) + integer(-1)
    else:
        record = integer(layer.outputs) + integer(layer.inputs)
        record += tensor(layer.values, (layer.inputs, layer.outputs, 1, 1)) + integer(0)
    return string(layer.marker) + record + struct.pack("<d", 1.0)


def dlib_file(records: list[bytes]) -> bytes:
    """A network: layers with parameters between layers without."""
    return string("loss_metric_2") + integer(1) + b"".join(r + string("relu_") + integer(-300) for r in records)


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    return random_layers()


@pytest.fixture(scope="module")
def records(layers: list[Layer]) -> list[bytes]:
    return [serialised(layer) for layer in layers]


@pytest.fixture(scope="module")
def file(records: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dlib") / "network.dat"
    path.write_bytes(dlib_file(records))
    return path


@pytest.fixture(scope="module")
def network(file: Path) -> DlibResNet:
    loaded = DlibResNet().eval()
    loaded.load_state_dict(read_dlib_weights(file))
    return loaded


def naive_chip(image: np.ndarray) -> np.ndarray:
    """(112, 112, 3) RGB 0..255 -> (150, 150, 3): bilinear, edge pixels going on outside; float64."""
    scale = 52.55 / 35.237
    out = np.empty((150, 150, 3))
    for row in range(150):
        for column in range(150):
            y = min(max((row - 47.13) / scale + 51.599, 0.0), 111.0)
            x = min(max((column - 74.0) / scale + 55.913, 0.0), 111.0)
            top, left = min(int(y), 110), min(int(x), 110)
            v, u = y - top, x - left
            corners = image[top : top + 2, left : left + 2].astype(np.float64)
            out[row, column] = (1 - v) * ((1 - u) * corners[0, 0] + u * corners[0, 1]) + v * (
                (1 - u) * corners[1, 0] + u * corners[1, 1]
            )
    return out


def naive_block(x: Tensor, layers: list[Layer], down: bool) -> Tensor:
    """One residual block of (B, C, H, W) from its four layers."""
    first, scale_1, second, scale_2 = layers
    out = F.conv2d(x, *first.convolution(), stride=2 if down else 1, padding=0 if down else 1)
    out = (out * scale_1.affine()[0] + scale_1.affine()[1]).clamp(min=0)
    out = F.conv2d(out, *second.convolution(), padding=1)
    out = out * scale_2.affine()[0] + scale_2.affine()[1]
    if not down:
        return (x + out).clamp(min=0)
    height, width = x.shape[2] // 2, x.shape[3] // 2
    pooled = x[:, :, : 2 * height, : 2 * width].reshape(*x.shape[:2], height, 2, width, 2).mean(dim=(3, 5))
    size = [max(a, b) for a, b in zip(out.shape, pooled.shape, strict=True)]
    total = torch.zeros(size)
    for part in (out, pooled):  # dlib adds tensors of unlike sizes as if the smaller went on with zeros
        _, c, h, w = part.shape
        total[:, :c, :h, :w] += part
    return total.clamp(min=0)


def naive_network(image: np.ndarray, layers: list[Layer]) -> np.ndarray:
    chip = (naive_chip(image) - RGB_MEAN) / 256
    x = torch.from_numpy(chip.transpose(2, 0, 1)[None].astype(np.float32))
    scale, shift = layers[1].affine()
    x = (F.conv2d(x, *layers[0].convolution(), stride=2) * scale + shift).clamp(min=0)
    x = F.max_pool2d(x, 3, stride=2)
    for number, (_, down) in enumerate(BLOCKS):
        x = naive_block(x, layers[2 + 4 * number : 6 + 4 * number], down)
    mean = x.mean(dim=(2, 3)).numpy()[0]
    return mean @ layers[-1].values.reshape(256, 128)


def test_embedding_is_that_of_the_naive_network(network: DlibResNet, layers: list[Layer], image: np.ndarray) -> None:
    x = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 127.5 - 1
    with torch.no_grad():
        found = network(x).numpy()[0]
    expected = naive_network(image, layers)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("size", [35, 17, 8, 4])
def test_down_block_of_each_size(network: DlibResNet, layers: list[Layer], size: int) -> None:
    """Even and odd sizes: the convolution without padding gives the smaller map of the two, or the same."""
    number, block = {
        35: (3, network.groups[1][0]),
        17: (7, network.groups[2][0]),
        8: (10, network.groups[3][0]),
        4: (13, network.last),
    }[size]
    x = torch.randn(1, layers[2 + 4 * number].inputs, size, size)
    expected = naive_block(x, layers[2 + 4 * number : 6 + 4 * number], down=True)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


def test_chip_shows_the_right_points_of_the_crop() -> None:
    """In an image whose values are coordinates, the chip's pixels tell where they come from."""
    y, x = np.mgrid[0:112, 0:112]
    ramp = torch.from_numpy(np.stack([x, y, 0 * x]).astype(np.float32))[None]  # the values 0..111 of 0..255
    chip = FaceChip()(ramp / 127.5 - 1)[0].numpy() * 256 + RGB_MEAN[:, None, None]
    for row, column in [(0, 0), (47, 74), (75, 20), (130, 100), (149, 149)]:
        expected_x = (column - 74.0) * 35.237 / 52.55 + 55.913
        expected_y = (row - 47.13) * 35.237 / 52.55 + 51.599
        np.testing.assert_allclose(chip[:2, row, column], np.clip([expected_x, expected_y], 0, 111), atol=2e-3)


def test_chip_lets_gradients_through() -> None:
    x = torch.zeros(1, 3, 112, 112, requires_grad=True)
    FaceChip()(x).sum().backward()
    assert x.grad is not None and (x.grad[0, :, 50:60, 50:60] > 0).all()


@pytest.mark.parametrize(("tap", "size"), [(0, 35), (1, 17), (2, 8), (3, 4)])
def test_features_are_aligned_with_the_points_that_a_map_sees(network: DlibResNet, tap: int, size: int) -> None:
    """Features whose values are their own places in the crop tell where the cells of a map take them from."""
    start, stride = 3, 2  # cell 0 of the 7x7 convolution with stride 2 is centred on pixel 3 of the chip
    for _ in range(1 + tap):  # then a pooling and `tap` down blocks: 3x3 with stride 2, centred on cells 1, 3, 5, ...
        start, stride = start + stride, stride * 2
    chip_px = start + stride * np.arange(size)
    crop_px = (np.arange(28) + 0.5) * 4 - 0.5  # centres of 28 cells over 112 pixels
    y, x = np.meshgrid(crop_px, crop_px, indexing="ij")

    found = network.align(tap, torch.from_numpy(np.stack([x, y]))[None].float(), (size, size))[0].numpy()

    expected_x = np.clip((chip_px - 74.0) * 35.237 / 52.55 + 55.913, crop_px[0], crop_px[-1])
    expected_y = np.clip((chip_px - 47.13) * 35.237 / 52.55 + 51.599, crop_px[0], crop_px[-1])
    np.testing.assert_allclose(found[0], np.broadcast_to(expected_x, (size, size)), atol=1e-3)
    np.testing.assert_allclose(found[1], np.broadcast_to(expected_y[:, None], (size, size)), atol=1e-3)


def test_recogniser_loads_the_file_and_feeds_it_rgb(file: Path, layers: list[Layer], image: np.ndarray) -> None:
    recogniser = load_recogniser("dlib_resnet", file)
    with torch.no_grad():
        found = recogniser(torch.from_numpy(image.transpose(2, 0, 1).copy())[None]).numpy()[0]
    expected = naive_network(image, layers)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-3)


def test_only_128_numbers_are_available() -> None:
    with pytest.raises(ValueError, match=r"512.*128"):
        DlibResNet(embedding_size=512)


def flipped_version(records: list[bytes]) -> list[bytes]:
    record = records[4]
    at = record.index(string("con_4")) + len(string("con_4"))
    return [*records[:4], record[:at] + integer(3) + record[at + 2 :], *records[5:]]


def with_nan(records: list[bytes]) -> list[bytes]:
    record = bytearray(records[7])
    record[-16:-12] = struct.pack("<f", np.nan)  # the last value; two integers and a double follow
    return [*records[:7], bytes(record), *records[8:]]


DAMAGES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "a layer is missing": (lambda r: r[:5] + r[6:], "58 layers found, 59 expected"),
    "a layer too many": (lambda r: [*r, r[0]], "60 layers found"),
    "wrong marker": (lambda r: [r[0].replace(b"con_4", b"con_9"), *r[1:]], "58 layers found"),
    "wrong order": (lambda r: [r[1], r[0], *r[2:]], r"layer 1 \(affine_\)"),
    "wrong size": (lambda r: [r[0], r[1], r[-3], *r[3:]], r"layer 3 \(con_4\).*expected con_4 with 9248"),
    "another tensor version": (flipped_version, "58 layers found"),
    "NaN": (with_nan, r"layer 8 \(affine_\).*not finite"),
    "empty": (lambda r: [], "0 layers found"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_other_files_are_refused_with_the_place(records: list[bytes], tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    path = tmp_path / "network.dat"
    path.write_bytes(dlib_file(change(records)))
    with pytest.raises(ValueError, match=message) as error:
        read_dlib_weights(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("fraction", [0.0, 0.0001, 0.3, 0.999])
def test_torn_file_is_refused(file: Path, tmp_path: Path, fraction: float) -> None:
    data = file.read_bytes()
    path = tmp_path / "torn.dat"
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(ValueError, match=r"torn\.dat"):
        read_dlib_weights(path)


def test_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise.dat"
    path.write_bytes(np.random.default_rng(0).bytes(100_000))
    with pytest.raises(ValueError, match="layers found"):
        read_dlib_weights(path)

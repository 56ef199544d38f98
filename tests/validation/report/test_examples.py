"""Example faces: which are shown, and that they are what is sent and what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from torchkit.client import Client, ClientSettings
from torchkit.data.validation_set import ValidationSet
from torchkit.obfuscation import obfuscate
from torchkit.payload import EncodedImage
from torchkit.system.observation import observe
from torchkit.util.seeding import content_stream
from validation.measure.conditions import Parties, Subject, cases
from validation.measure.evaluate import Computation, face_batches, subjects
from validation.report.examples import Example, ExampleCollector, shuffled_maps, tiles

CPU = torch.device("cpu")
SETTINGS = ClientSettings(server_shapes=((64, 56, 56), (128, 28, 28), (128, 14, 14), (512, 7, 7)))


@pytest.fixture(scope="module")
def client() -> Client:
    torch.manual_seed(0)
    return Client(SETTINGS, key_seed=1).eval()


@pytest.fixture(scope="module")
def data(make_image: Callable[[int], np.ndarray]) -> ValidationSet:
    """12 pairs over 6 images; the first images of the pairs are 0, 0, 1, 1, ..."""
    images = np.stack([make_image(seed).transpose(2, 0, 1) for seed in range(6)])
    rows = np.stack([np.repeat(np.arange(6), 2), np.zeros(12, int)], axis=1).ravel()
    return ValidationSet("six", images, rows, np.arange(12) % 2 == 0)


def example_faces(client: Client, data: ValidationSet, kinds: tuple[str, ...], seed: int, count: int) -> list[Example]:
    """What is collected as an evaluation passes."""
    system, wanted, computation = Parties(None, client), cases(kinds, ["compensated"]), Computation(CPU, batch_size=4)
    collector = ExampleCollector(data, count)
    for batch in face_batches(system, data.images, wanted, seed, computation):
        for own_cases, subject in subjects(system, batch, wanted, CPU):
            for case in own_cases:
                collector(case, batch.positions, subject)
    return collector.examples()


def maps_of(
    client: Client, clear: torch.Tensor, obfuscated: torch.Tensor
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`shuffled_maps` of one face, (1, 3, 112, 112) uint8 RGB twice."""
    return shuffled_maps(Subject(Parties(None, client), clear, observe(client, clear, obfuscated)), 0)


def test_faces_are_spread_over_the_set_and_obfuscated_as_in_the_evaluation(client: Client, data: ValidationSet) -> None:
    found = example_faces(client, data, ("hybrid", "median"), seed=5, count=3)
    for example, image in zip(found, (0, 2, 4), strict=True):  # pairs 0, 4, 8
        clear = np.ascontiguousarray(data.images[image].transpose(1, 2, 0))
        np.testing.assert_array_equal(example.clear, clear)
        assert [kind.obfuscation for kind in example.kinds] == ["hybrid", "median"]
        for kind in example.kinds:
            sent = obfuscate(clear, kind.obfuscation, content_stream(clear, 5, kind.obfuscation))
            np.testing.assert_array_equal(kind.obfuscated, sent)
            restored = 2 * (kind.residual.astype(int) - 128) + sent  # halving drops the last bit
            assert np.isin(clear - restored, (0, 1)).all()


@pytest.mark.parametrize(("count", "images"), [(0, 0), (1, 1), (50, 6)])
def test_no_face_is_shown_twice(client: Client, data: ValidationSet, count: int, images: int) -> None:
    found = example_faces(client, data, ("gaussian",), seed=5, count=count)
    assert len({example.clear.tobytes() for example in found}) == len(found) == images


def test_maps_are_those_around_the_shuffle(client: Client, make_image: Callable[[int], np.ndarray]) -> None:
    batch = [torch.from_numpy(make_image(seed).transpose(2, 0, 1)[None].copy()) for seed in (0, 1)]
    before, after = maps_of(client, *batch)
    with torch.inference_mode():
        tap = client.backbone.taps(client.prepare(*batch))[0]
        plain = client.interfaces[0](tap)[0].numpy()
        sent = client(client.prepare(*batch))[0][0].numpy()
    low, high = plain.min(), plain.max()
    assert before is not None and after is not None
    assert before.shape == after.shape == (112, 112)  # 4 x 4 maps of 28 x 28
    for shown, maps in ((before, plain), (after, sent)):
        for channel in range(16):
            row, column = divmod(channel, 4)
            tile = shown[28 * row : 28 * row + 28, 28 * column : 28 * column + 28]
            np.testing.assert_array_equal(tile, np.round(255 * ((maps[channel] - low) / (high - low))))
    assert not np.array_equal(before, after)


def test_client_without_a_shuffle_has_no_maps_to_show() -> None:
    plain = Client(replace(SETTINGS, shuffle_taps=())).eval()
    image = torch.zeros(1, 3, 112, 112, dtype=torch.uint8)
    assert maps_of(plain, image, image) == (None, None)


def test_lossy_images_are_shown_as_the_server_gets_them(data: ValidationSet) -> None:
    lossy = Client(replace(SETTINGS, image_quality=5, shuffle_taps=())).eval()
    (example,) = example_faces(lossy, data, ("gaussian",), seed=5, count=1)
    sent = obfuscate(example.clear, "gaussian", content_stream(example.clear, 5, "gaussian"))
    np.testing.assert_array_equal(example.kinds[0].obfuscated, EncodedImage.compress(sent, 5).pixels)
    assert not np.array_equal(example.kinds[0].obfuscated, sent)


def test_few_channels_leave_black_tiles() -> None:
    maps = np.stack([np.full((2, 3), value, np.float32) for value in (0.0, 1.0, 2.0)])
    found = tiles(maps, 0.0, 2.0)
    assert found.shape == (8, 12)
    assert [found[0, 3 * column] for column in range(4)] == [0, 128, 255, 0]
    assert not found[2:].any()
    assert not tiles(np.full((1, 2, 2), 3.0, np.float32), 3.0, 3.0).any()  # all alike

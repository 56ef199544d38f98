"""What attackers take of an observation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TinySet, draw_face
from parties import FLOAT, trained_client, whole_system, write_files
from torch import Tensor

from torchkit.attack.inputs import AttackInputs, parse_observation
from torchkit.attack.recording import RecordedFaces, Recorder, Recording, check_recording, choose_images
from torchkit.data.index import read_index
from torchkit.obfuscation import evaluation_image
from torchkit.server import Recogniser
from torchkit.system import ProFaceC
from torchkit.util.pixels import to_batch


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> ProFaceC:
    folder = tmp_path_factory.mktemp("parties")
    write_files(folder)
    return whole_system(folder)


@pytest.fixture(scope="module")
def inputs(system: ProFaceC) -> AttackInputs:
    return AttackInputs(system)


@pytest.fixture(scope="module")
def faces() -> tuple[Tensor, Tensor]:
    images = [draw_face(seed) for seed in (1, 2)]
    return to_batch(images), to_batch([evaluation_image(image, "hybrid", 3) for image in images])


def test_observations_are_their_parts() -> None:
    assert parse_observation("O+e+Z") == ("O", "e", "Z")


@pytest.mark.parametrize("text", ["", "o", "O+O", "Z+Z_stolen_key", "O+Z+"])
def test_other_observations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="observation"):
        parse_observation(text)


def test_arrays_have_the_shapes_that_are_told(inputs: AttackInputs, faces: tuple[Tensor, Tensor]) -> None:
    for text in ("O+e", "O+Z", "O+e+Z_stolen_key", "Z_unquantised", "O+e+function", "shallow", "clear"):
        shapes = inputs.inputs(parse_observation(text))
        arrays = inputs.arrays(*faces, list(shapes))
        assert {name: tuple(array.shape[1:]) for name, array in arrays.items()} == {
            name: shape.shape for name, shape in shapes.items()
        }


def test_an_embedding_that_is_sent_is_seen(faces: tuple[Tensor, Tensor]) -> None:
    settings = replace(FLOAT, shuffle_taps=(), pruned_channels=(1.0,) * 4, embedding_size=512, embedding_bits=4)
    inputs = AttackInputs(ProFaceC(trained_client(settings), Recogniser("mobilefacenet")).eval())
    for text, names in (("O+Z", {"O", "Z5", "server_embedding"}), ("e+function", {"e", "function5"})):
        shapes = inputs.inputs(parse_observation(text))
        assert set(shapes) == names
        arrays = inputs.arrays(*faces, list(shapes))
        assert {name: tuple(array.shape[1:]) for name, array in arrays.items()} == {
            name: shape.shape for name, shape in shapes.items()
        }


def test_features_are_those_that_are_sent(system: ProFaceC, inputs: AttackInputs, faces: tuple[Tensor, Tensor]) -> None:
    arrays = inputs.arrays(*faces, ["Z1", "server1", "server_embedding", "e", "shallow"])
    with torch.no_grad():
        sent = system.features(*faces)
        maps, embedding = system.server.forward_intermediates(faces[1], sent)
        assert torch.equal(arrays["Z1"], sent[0])
        assert torch.equal(arrays["server1"], maps[0])
        assert torch.equal(arrays["server_embedding"], F.normalize(embedding))
        assert torch.equal(arrays["e"], system.recogniser(faces[0]))
        assert torch.equal(arrays["shallow"], system.recogniser.forward_intermediates(faces[0])[0][0])


def test_keys_differ_in_nothing_but_the_order(
    system: ProFaceC, inputs: AttackInputs, faces: tuple[Tensor, Tensor]
) -> None:
    arrays = inputs.arrays(*faces, ["Z1", "Z1_wrong_key", "Z_stolen_key1", "Z2", "Z2_wrong_key"])
    right, wrong, stolen = arrays["Z1"], arrays["Z1_wrong_key"], arrays["Z_stolen_key1"]
    assert not torch.equal(right, wrong)
    # at each place the same values, in another order
    assert torch.equal(right.sort(dim=1).values, wrong.sort(dim=1).values)
    assert torch.equal(system.client.shuffles["1"](stolen), right)
    assert torch.equal(inputs.wrong_key["1"](stolen), wrong)


def test_what_is_no_function_of_the_features_does_not_change_with_the_key(
    inputs: AttackInputs, faces: tuple[Tensor, Tensor]
) -> None:
    names = ["O", "e", "Z4"]  # tap 4 is not shuffled
    arrays = inputs.arrays(*faces, [*names, "Z4_wrong_key"])
    assert torch.equal(arrays["Z4"], arrays["Z4_wrong_key"])


def test_function_depends_on_obfuscated_image_and_embedding_alone(
    inputs: AttackInputs, faces: tuple[Tensor, Tensor]
) -> None:
    name = f"function{inputs.sent[0]}"
    clear, obfuscated = faces
    own = inputs.arrays(clear, obfuscated, [name])[name]
    other = inputs.arrays(clear, obfuscated.flip(0), [name])[name]
    assert not torch.equal(own, other)
    embedding = inputs.arrays(clear, obfuscated, ["e"])["e"]
    assert torch.equal(inputs._function(inputs.sent[0], obfuscated, embedding), own)


def test_images_are_drawn_evenly_of_all_people() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 4])
    chosen = choose_images(labels, 12)
    assert np.bincount(labels[chosen]).tolist() == [4, 4, 4]
    assert np.array_equal(chosen, np.sort(np.unique(chosen)))
    assert np.array_equal(chosen, choose_images(labels, 12))
    assert len(choose_images(labels, None)) == len(choose_images(labels, 1000)) == 74


def test_recording_is_what_was_observed(tmp_path: Path, inputs: AttackInputs, tiny_set: TinySet) -> None:
    index = read_index(tiny_set.index_root, tiny_set.data_root, tiny_set.name)
    positions = np.array([1, 5, 9])
    Recorder(tmp_path / "train", inputs, index, positions, "hybrid", 3, torch.device("cpu")).record(
        ["clear", "O", "Z1"]
    )
    recorded = RecordedFaces(tmp_path / "train")
    assert recorded.people.tolist() == index.labels[positions].tolist()
    clear = [index.read(int(position)) for position in positions]
    assert np.array_equal(recorded.array("clear"), to_batch(clear).numpy())
    obfuscated = to_batch([evaluation_image(image, "hybrid", 3) for image in clear])
    expected = inputs.arrays(to_batch(clear), obfuscated, ["Z1"])["Z1"].half()
    assert np.array_equal(recorded.array("Z1"), expected.numpy())
    with pytest.raises(FileNotFoundError, match="record the observation first"):
        recorded.array("e")


def test_another_recording_is_refused(tmp_path: Path) -> None:
    recording = Recording("00", "hybrid", 1, {"train": 1}, {"train": "index"}, "small", "dlib_resnet")
    check_recording(tmp_path, recording)
    check_recording(tmp_path, recording)
    with pytest.raises(ValueError, match="another client"):
        check_recording(tmp_path, replace(recording, client="01"))

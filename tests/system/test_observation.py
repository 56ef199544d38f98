"""Observations: what is sent, bit for bit, with and without the key."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import parties
import pytest
import torch
from conftest import draw_face

from torchkit.client import ClientSettings
from torchkit.client.encoder import Encoder
from torchkit.data.camera import CAMERAS
from torchkit.obfuscation import evaluation_image
from torchkit.payload import EncodedImage, decode, encode
from torchkit.server import Recogniser
from torchkit.server.decoder import features_of
from torchkit.system import ProFaceC
from torchkit.system.observation import (
    ObservedFaces,
    apply_shuffle,
    augmented,
    observe,
    observe_images,
    undo_shuffle,
)
from torchkit.util.seeding import content_stream

IMAGES = np.stack([draw_face(seed).transpose(2, 0, 1) for seed in range(20, 23)])
CLEAR = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in IMAGES]
SETTINGS = {
    "float": parties.FLOAT,
    "quantised": parties.QUANTISED,
    "pruned": parties.BOTH,
    "difference": parties.DIFFERENCE,
    "lossy": replace(parties.QUANTISED, image_quality=30),
}


def system_of(settings: ClientSettings) -> ProFaceC:
    return ProFaceC(parties.trained_client(settings), Recogniser("mobilefacenet")).eval()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_an_observation_is_what_messages_decode_to(settings: ClientSettings) -> None:
    system = system_of(settings)
    observation = observe_images(system, IMAGES, "hybrid", seed=5)
    assert observation.features is not None and observation.embedding is None
    encoder = Encoder(system.client)
    obfuscated = [evaluation_image(image, "hybrid", 5) for image in CLEAR]
    sent = [encode(payload) for payload in encoder(CLEAR, obfuscated)]
    received = [decode(message) for message in sent]
    for image, payload in zip(observation.images, received, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), payload.image.pixels)
    for ours, theirs in zip(observation.features, features_of(received), strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs)
    assert [encode(payload) for payload in observation.payloads(encoder)] == sent


def test_faces_come_with_each_obfuscation_as_received() -> None:
    for quality in (None, 30):
        clear, obfuscated, streams = ObservedFaces(IMAGES, ("median", "hybrid"), 5, quality)[1]
        np.testing.assert_array_equal(clear, IMAGES[1])
        for image, stream, kind in zip(obfuscated, streams, ("median", "hybrid"), strict=True):
            sent = EncodedImage.compress(evaluation_image(CLEAR[1], kind, 5), quality)
            np.testing.assert_array_equal(image.permute(1, 2, 0), sent.pixels)
            assert stream == (b"" if quality is None else sent.data)


def test_an_observer_may_know_the_embedding_or_see_the_image_alone() -> None:
    system = system_of(parties.FLOAT)
    observation = observe_images(system, IMAGES, "median", seed=5, with_embedding=True)
    torch.testing.assert_close(observation.embedding, system.recogniser(torch.from_numpy(IMAGES)))
    alone = observe(None, torch.from_numpy(IMAGES), observation.images)
    assert alone.features is None and alone.embedding is None and torch.equal(alone.images, observation.images)


def test_observations_are_cut() -> None:
    whole = observe_images(system_of(SETTINGS["lossy"]), IMAGES, "median", seed=5, with_embedding=True)
    part = whole[1:]
    assert len(part) == 2 and whole.streams is not None and part.streams == whole.streams[1:]
    for ours, theirs in zip(part.features or (), whole.features or (), strict=True):
        assert torch.equal(ours, theirs[1:])
    assert whole.embedding is not None and part.embedding is not None
    assert torch.equal(part.images, whole.images[1:]) and torch.equal(part.embedding, whole.embedding[1:])


def test_the_right_key_and_a_wrong_one_differ_exactly_in_the_key() -> None:
    client = parties.trained_client(parties.FLOAT)
    other = copy.deepcopy(client)
    other.draw_new_key(99)
    clear = torch.from_numpy(IMAGES)
    sent, sent_by_other = (observe(each, clear, clear.flip(0)) for each in (client, other))
    opened, opened_by_other = (undo_shuffle(sent, each.shuffles) for each in (client, other))
    plain = copy.deepcopy(client)
    for tap in list(plain.shuffles):
        del plain.shuffles[tap]
    for tap, maps in enumerate(observe(plain, clear, clear.flip(0)).features or ()):
        assert opened.features is not None and opened_by_other.features is not None and sent.features is not None
        assert torch.equal(opened.features[tap], maps)
        shuffled = str(tap + 1) in client.shuffles
        assert (
            torch.equal(opened_by_other.features[tap], maps) == torch.equal(sent.features[tap], maps) == (not shuffled)
        )
    again = apply_shuffle(opened, other.shuffles).features or ()
    assert all(map(torch.equal, again, sent_by_other.features or ()))


def test_a_camera_draws_by_seed_and_content() -> None:
    taken = augmented(IMAGES, CAMERAS["jpeg"], 5)
    for image, face in zip(taken, CLEAR, strict=True):
        expected = CAMERAS["jpeg"](face, content_stream(face, 5, "camera"))
        np.testing.assert_array_equal(image, expected.transpose(2, 0, 1))

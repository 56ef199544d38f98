"""The baselines among the conditions beside naive re-derivations: client alone, and embeddings in few bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import parties
import pytest
import torch
import torch.nn.functional as F
from conftest import TinySet
from sklearn.linear_model import Ridge

from torchkit.backbone import get_model
from torchkit.data.validation_set import ValidationSet
from torchkit.obfuscation import evaluation_image
from torchkit.payload import EncodedImage
from torchkit.payload.image import strip_container
from torchkit.server import load_recogniser
from torchkit.system import ProFaceC
from torchkit.util.ridge import RELATIVE_PENALTIES
from validation.measure.conditions import CONDITIONS, Case
from validation.measure.cost import cost_extras, measure_costs
from validation.measure.embedding_code import lloyd_max, random_rotation
from validation.measure.evaluate import Computation, embed
from validation.measure.payload_size import SizeCounter
from validation.measure.training_images import read_training_images

CPU = torch.device("cpu")
SEED = 5
SETTINGS = replace(parties.DIFFERENCE, pruned_channels=(1.0, 1.0, 0.5, 0.75))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> ProFaceC:
    file = tmp_path_factory.mktemp("server") / "recogniser.pth"
    torch.manual_seed(1)
    network = get_model("mobilefacenet")
    parties.settle(network, torch.rand(4, 3, 112, 112) * 2 - 1)
    torch.save(network.state_dict(), file)
    return ProFaceC(parties.trained_client(SETTINGS), load_recogniser("mobilefacenet", file)).eval()


@pytest.fixture(scope="module")
def images(make_image: Callable[[int], np.ndarray]) -> np.ndarray:
    """(16, 3, 112, 112): the first 12 to fit on, the others to measure on."""
    return np.stack([make_image(seed).transpose(2, 0, 1) for seed in range(16)])


def validation_set(images: np.ndarray) -> ValidationSet:
    return ValidationSet("some", images, np.arange(len(images)), np.zeros(len(images) // 2, bool))


def features_of(system: ProFaceC, images: np.ndarray) -> np.ndarray:
    """(N, d) of the features that leave under the median."""
    rows = []
    for image in images:
        obfuscated = evaluation_image(np.ascontiguousarray(image.transpose(1, 2, 0)), "median", SEED)
        pair = (torch.from_numpy(np.ascontiguousarray(array)) for array in (image, obfuscated.transpose(2, 0, 1)))
        with torch.inference_mode():
            rows.append(torch.cat([tap.flatten() for tap in system.features(*(face[None] for face in pair))]).numpy())
    return np.stack(rows)


@torch.inference_mode()
def clear_embeddings(system: ProFaceC, images: np.ndarray) -> np.ndarray:
    return torch.cat([system.recogniser(torch.from_numpy(image[None])) for image in images]).numpy()


def test_client_alone_is_scikit_learns_ridge_of_what_is_sent(system: ProFaceC, images: np.ndarray) -> None:
    case = Case("client_alone", "median")
    measured = embed(system, validation_set(images[12:]), [case], SEED, Computation(CPU, 5), fit_images=images[:12])[
        case
    ]
    features, targets = features_of(system, images).astype(np.float64), clear_embeddings(system, images)
    known = features[:12]
    spread = np.square(known - known.mean(axis=0)).sum(axis=1).mean()

    def mapped(penalty: float, fitted: int, chosen: slice) -> torch.Tensor:
        ridge = Ridge(alpha=penalty).fit(features[:fitted], targets[:fitted])
        return F.normalize(torch.from_numpy(ridge.predict(features[chosen])))

    def agreement(penalty: float) -> float:
        held_out = slice(10, 12)  # the last fifth of 12
        return float((mapped(penalty, 10, held_out) * torch.from_numpy(targets[held_out])).sum())

    best = max((relative * spread for relative in RELATIVE_PENALTIES), key=agreement)
    np.testing.assert_allclose(measured, mapped(best, 12, slice(12, 16)), atol=1e-3)


def test_client_alone_needs_training_images(system: ProFaceC, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"client_alone is fitted on training images: .* --fit-on"):
        embed(system, validation_set(images), [Case("client_alone", "median")], SEED, Computation(CPU))


@pytest.mark.parametrize("bits", [1, 2])
def test_embedding_only_is_the_quantised_clear_embedding(system: ProFaceC, images: np.ndarray, bits: int) -> None:
    case, computation = Case(f"embedding_{bits}_bit", "median"), Computation(CPU, 5)
    counter = SizeCounter(len(images), computation)
    measured = embed(system, validation_set(images), [case], SEED, computation, [counter])[case]
    rotation = random_rotation(512).numpy()
    thresholds, levels = lloyd_max(bits)
    codes = np.digitize(clear_embeddings(system, images) @ rotation * np.sqrt(512), thresholds)
    expected = np.array(levels)[codes] @ rotation.T
    agreement = (measured * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    assert agreement.min() > 0.99  # a value beside a threshold may fall to either side
    size = counter.mean_sizes([case])[case]
    sent = [evaluation_image(np.ascontiguousarray(image.transpose(1, 2, 0)), "median", SEED) for image in images]
    streams = [EncodedImage.compress(image, None).data for image in sent]
    assert size.image == np.mean([len(strip_container(stream)[1]) for stream in streams])
    assert 64 * bits <= size.features < 64 * bits + 4  # of 512 values, and the end of a stream
    assert size.message < size.image + size.features + 24


def test_every_condition_names_what_is_run(system: ProFaceC) -> None:
    costs = measure_costs(system)
    macs = {
        name: (extras["client_macs"], extras["server_macs"])
        for name, condition in CONDITIONS.items()
        if (extras := cost_extras(condition, costs))
    }
    client, recogniser = costs["client"].multiply_adds, costs["recogniser"].multiply_adds
    assert 0 < client != recogniser > 0
    assert macs["clear"] == macs["obfuscated"] == (0, recogniser)
    assert macs["compensated"] == (client, costs["compensated server"].multiply_adds)
    assert macs["client_alone"] == (client, 0)
    assert macs["embedding_1_bit"] == macs["embedding_2_bit"] == (recogniser, 0)


def test_unknown_latency_is_left_out(system: ProFaceC) -> None:
    costs = {party: replace(cost, onnx_latency_ms=None) for party, cost in measure_costs(system).items()}
    extras = cost_extras(CONDITIONS["clear"], costs)
    assert "server_onnx_latency_ms" not in extras and extras["client_onnx_latency_ms"] == 0


def test_training_images_are_spread_over_the_set(tiny_set: TinySet) -> None:
    root, data_root = tiny_set.index_root, tiny_set.data_root
    everything = read_training_images(root / "tiny", data_root)
    assert everything.shape == (12, 3, 112, 112) and everything.dtype == np.uint8
    np.testing.assert_array_equal(read_training_images(root / "tiny", data_root, limit=4), everything[::3])
    with pytest.raises(FileNotFoundError, match="other"):
        read_training_images(root / "other", data_root)

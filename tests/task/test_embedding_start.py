"""The start of the embedding's map beside ridge regression as scikit-learn has it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from conftest import draw_face
from parties import OWN_SHAPES
from sklearn.linear_model import Ridge

from torchkit.client import Client, ClientSettings
from torchkit.server import Recogniser
from torchkit.system import ProFaceC
from torchkit.task.embedding_start import RELATIVE_PENALTY, ridge, start_embedding
from torchkit.util.pixels import network_input, to_batch


def test_ridge_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(3, 2, (50, 8)), rng.normal(size=(50, 5))
    centred = inputs - inputs.mean(0)
    expected = Ridge(alpha=RELATIVE_PENALTY * (centred**2).sum(0).mean()).fit(inputs, targets)
    weight, bias = ridge(torch.from_numpy(inputs), torch.from_numpy(targets))
    np.testing.assert_allclose(weight.numpy(), expected.coef_)
    np.testing.assert_allclose(bias.numpy(), expected.intercept_)


@torch.no_grad()
def test_the_client_starts_at_the_servers_embedding_of_the_clear_image() -> None:
    settings = ClientSettings(
        OWN_SHAPES, input="clear", channel_order="bgr", shuffle_taps=(), pruned_channels=(1.0,) * 4, embedding_size=512
    )
    system = ProFaceC(Client(settings), Recogniser("mobilefacenet")).train()
    clear = to_batch([draw_face(seed) for seed in range(12)])
    start_embedding(system, clear.split(5))
    assert system.client.training and not system.server.compensation.own_embedding_weights.any()
    client = system.client.eval()
    embedding = client.embedding(client.prepare(clear, clear))
    own = client.backbone(network_input(clear, "bgr"))
    torch.testing.assert_close(embedding, F.normalize(own))
    weight, bias = ridge(embedding.double(), system.recogniser(clear).double())
    expected = F.normalize(embedding @ weight.T.float() + bias.float())
    torch.testing.assert_close(system.eval()(clear, clear.flip(-1)), expected, atol=1e-4, rtol=0)

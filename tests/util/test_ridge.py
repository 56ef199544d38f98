"""The closed form beside scikit-learn's ridge regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from torchkit.util.ridge import RELATIVE_PENALTIES, fit_best_ridge, fit_ridge


def draw(faces: int, size: int, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and embeddings that depend on them linearly, about."""
    generator = torch.Generator().manual_seed(faces + size)
    features = 3 + torch.randn(faces, size, generator=generator)
    embeddings = features @ torch.randn(size, 7, generator=generator) / size**0.5
    return features, F.normalize(embeddings + noise * torch.randn(faces, 7, generator=generator))


@pytest.mark.parametrize(("faces", "size"), [(60, 20), (20, 60), (30, 30)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_map_is_that_of_scikit_learn(faces: int, size: int, penalty: float) -> None:
    features, embeddings = (tensor.double() for tensor in draw(faces, size))
    expected = Ridge(alpha=penalty).fit(features.numpy(), embeddings.numpy())
    fitted = fit_ridge(features, embeddings, penalty)
    np.testing.assert_allclose(fitted.weight.T, expected.coef_, atol=1e-8)
    np.testing.assert_allclose(fitted.bias, expected.intercept_, atol=1e-8)
    np.testing.assert_allclose(fitted(features), expected.predict(features.numpy()), atol=1e-8)


@pytest.mark.parametrize(("faces", "size"), [(60, 20), (20, 60)], ids=["tall", "wide"])
def test_float32_is_enough(faces: int, size: int) -> None:
    features, embeddings = draw(faces, size)
    expected = Ridge(alpha=1.0).fit(features.double().numpy(), embeddings.double().numpy())
    fitted = fit_ridge(features, embeddings, 1.0)
    assert fitted.weight.dtype == torch.float32
    np.testing.assert_allclose(fitted(features), expected.predict(features.double().numpy()), atol=1e-4)


@pytest.mark.parametrize("noise", [0.01, 3.0])
def test_penalty_is_the_best_one_for_the_last_fifth(noise: float) -> None:
    features, embeddings = draw(100, 60, noise)
    spread = (features - features.mean(dim=0)).square().sum(dim=1).mean().item()
    known = features[:80].numpy(), embeddings[:80].numpy()
    scores = {}
    for relative in RELATIVE_PENALTIES:
        mapped = Ridge(alpha=relative * spread).fit(*known).predict(features[80:].numpy())
        scores[relative] = F.cosine_similarity(torch.from_numpy(mapped), embeddings[80:]).mean().item()
    best = max(scores, key=lambda relative: scores[relative])
    expected = Ridge(alpha=best * spread).fit(features.numpy(), embeddings.numpy())
    np.testing.assert_allclose(fit_best_ridge(features, embeddings)(features), expected.predict(features), atol=1e-3)


def test_features_that_say_nothing_give_the_mean() -> None:
    _, embeddings = draw(20, 5)
    mapped = fit_best_ridge(torch.zeros(20, 5), embeddings)(torch.zeros(1, 5))
    torch.testing.assert_close(mapped[0], embeddings.mean(dim=0))


def test_too_few_faces_are_refused() -> None:
    with pytest.raises(ValueError, match=r"9 training faces .*: expected at least 10"):
        fit_best_ridge(*draw(9, 5))

"""Entropies from factors against eigenvalues of whole Gram matrices, and what must hold of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning_core.importance.renyi import kernel_factors, normalised_information

N, S0, ALPHA = 64, 3.0, 1.01
CLOSE = 0.01
"""What the truncation of the factors may cost a normalised information, entropies being about 1."""


def sample(kind: str, neurons: int = 12, n: int = N) -> torch.Tensor:
    """Return activations, fp32 [neurons, n], some of them correlated."""
    draw = torch.Generator().manual_seed(3)
    gate, up = torch.randn(2, neurons, n, generator=draw)
    shared = torch.randn(3, n, generator=draw)
    return {
        "normal": gate,
        "gated": torch.nn.functional.silu(gate) * up,
        "correlated": torch.randn(neurons, 3, generator=draw) @ shared + 0.3 * gate,
        "heavy": gate**5,
        "two values": gate.sign(),
    }[kind]


def information(activations: torch.Tensor, alpha: float = ALPHA) -> torch.Tensor:
    return normalised_information(kernel_factors(activations, S0), alpha)


def kernel(x: np.ndarray) -> np.ndarray:
    """Return ``A = K / n`` of one neuron, by its definition."""
    z = (x - x.mean()) / x.std()
    sigma = S0 * len(x) ** (-1 / 5)
    return np.exp(-((z[:, None] - z[None]) ** 2) / (2 * sigma**2)) / len(x)


def entropy(matrix: np.ndarray, alpha: float = ALPHA) -> float:
    values = np.linalg.eigvalsh(matrix).clip(0)
    return float(np.log2((values**alpha).sum()) / (1 - alpha))


def by_hand(x: np.ndarray, y: np.ndarray, alpha: float = ALPHA) -> float:
    a, b = kernel(x), kernel(y)
    one, other = entropy(a, alpha), entropy(b, alpha)
    return (one + other - entropy(len(x) * a * b, alpha)) / np.sqrt(one * other)


KINDS = ["normal", "gated", "correlated", "heavy", "two values"]


@pytest.mark.parametrize("kind", KINDS)
def test_factors_multiply_to_the_kernel(kind: str) -> None:
    activations = sample(kind)
    factors = kernel_factors(activations, S0)
    for neuron, factor in zip(activations, factors, strict=True):
        whole = torch.from_numpy(kernel(neuron.double().numpy()))
        product = (factor.T @ factor).double()
        assert (whole - product).abs().max() * N < 2e-3
        assert float(whole.trace() - product.trace()) == pytest.approx(0, abs=2e-5)
        gram = factor @ factor.T
        torch.testing.assert_close(gram, gram.diag().diag(), rtol=0, atol=1e-6)
        assert (gram.diag().diff() <= 1e-6).all(), "from the longest row to the shortest"
    assert factors.shape[1] < N / 2, "that is what makes them worth having"


@pytest.mark.parametrize("alpha", [1.01, 1.5, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_information_is_that_of_whole_matrices(kind: str, alpha: float) -> None:
    activations = sample(kind, neurons=6)
    found = information(activations, alpha)
    x = activations.double().numpy()
    expected = torch.tensor([[by_hand(a, b, alpha) for b in x] for a in x])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=CLOSE)


def test_more_pairs_than_are_held_at_a_time() -> None:
    activations = sample("correlated", neurons=20)
    torch.testing.assert_close(
        information(activations)[:3, :3], information(activations[:3]), rtol=0, atol=CLOSE
    )


def test_one_neuron_alone_is_no_trouble() -> None:
    assert information(sample("normal", neurons=1)).shape == (1, 1)


def test_two_values_by_hand() -> None:
    # Half the tokens at -1, half at 1: K has two blocks, A the eigenvalues (1 +- k) / 2.
    x = torch.tensor([-1.0, 1.0]).repeat(32)[None]
    k = np.exp(-(2.0**2) / (2 * (S0 * 64**-0.2) ** 2))

    def bits(k: float) -> float:
        return float(np.log2(sum(((1 + s * k) / 2) ** ALPHA for s in (-1, 1))) / (1 - ALPHA))

    # Its Hadamard product with itself is the same matrix with k squared.
    expected = (2 * bits(k) - bits(k**2)) / bits(k)
    assert float(information(x)[0, 0]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_neuron_knows_itself_better_than_noise(kind: str) -> None:
    activations = sample(kind)
    noise = torch.randn(1, N, generator=torch.Generator().manual_seed(8))
    table = information(torch.cat((activations, activations, noise)))
    count = len(activations)
    own = table[:count, count:-1].diag()
    assert (own > table[:count, -1]).all()
    torch.testing.assert_close(own, table.diag()[:count], rtol=0, atol=1e-4)


def test_information_is_symmetric_and_below_one() -> None:
    table = information(sample("correlated"))
    assert torch.equal(table, table.T)
    assert (table <= 1).all()
    assert (table > 0).all()


def test_scale_sign_and_offset_do_not_matter() -> None:
    activations = sample("gated")
    scales = torch.linspace(-3, 5, len(activations))[:, None]
    moved = activations * scales + torch.arange(len(activations))[:, None]
    torch.testing.assert_close(information(moved), information(activations), rtol=0, atol=5e-3)


def test_a_neuron_that_never_changes_tells_nothing() -> None:
    activations = sample("normal")
    activations[2] = 4.0
    table = information(activations)
    assert table.isfinite().all()
    assert (table[2].abs() < CLOSE).all()

"""Matrix-based Renyi entropy and mutual information of single neurons, without their Gram matrices.

    K_st = exp(-(x_s - x_t)^2 / 2 sigma^2),   sigma = s0 n^(-1/5),   x of mean 0 and variance 1
    A = K / n,   S(A) = log2(sum_i lambda_i(A)^alpha) / (1 - alpha)   in bits
    I(x; y) = S(A_x) + S(A_y) - S(n A_x o A_y),   nMI = I / sqrt(S(A_x) S(A_y))

Source: Sanchez Giraldo, Rao, Principe (arXiv 1211.2459); standardising first and the width follow
the code of Tapia and Estevez. A wide kernel over one variable has few eigenvalues that count, so a
matrix is kept as a factor, ``A = F^T F`` with F [rank, n], made by pivoted Cholesky from a dozen
columns of it. Of a Hadamard product the factor is made of products of rows, and its eigenvalues are
those of a Gram matrix that is much smaller than [n, n].
"""

from __future__ import annotations

import torch

LEFT_OUT = 1e-5
"""The largest share of a matrix's trace, which is 1, that its factor may miss."""

LEFT_OUT_OF_PAIRS = 3e-4
"""The same for a pair: its entropy is then right to about two thousandths of a bit."""

PAIRS_AT_ONCE = 128
"""Pairs whose factors are held at a time: few enough to stay in a CPU's cache."""


@torch.no_grad()
def kernel_factors(activations: torch.Tensor, s0: float) -> torch.Tensor:
    """Return factors of the kernel matrices of neurons.

    Args:
        activations: fp32 [neurons, n]; each is standardised by itself, so that its scale, sign and
            offset do not matter.
        s0: the kernel's width in standard deviations, before the factor ``n^(-1/5)``.

    Returns:
        F, fp32 [neurons, rank, n], with ``A = F^T F`` for every neuron; its rows are orthogonal and
        grow shorter. A neuron that never changes has a kernel of ones.
    """
    centred = activations.float() - activations.float().mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt_()
    x = centred / torch.where(spread > 0, spread, 1.0)
    neurons, n = x.shape
    scale = -0.5 / (s0 * n**-0.2) ** 2
    every = torch.arange(neurons, device=x.device)
    # What is left of the diagonal of A; the next column is taken where most is left.
    left = torch.full_like(x, 1 / n)
    rows = x.new_empty(neurons, 0, n)
    while rows.shape[1] < n and bool((left.sum(1) > LEFT_OUT).any()):
        peak, pivot = left.max(1)
        column = (x - x[every, pivot, None]).square_().mul_(scale).exp_().div_(n)
        column -= torch.einsum("urn,ur->un", rows, rows[every, :, pivot])
        # Where nothing is left, neither is anything of the column but rounding.
        column *= torch.where(peak > 0, peak.rsqrt(), 0.0)[:, None]
        left = (left - column.square()).clamp_(min=0)
        rows = torch.cat((rows, column[:, None]), 1)
    turned = torch.linalg.eigh(rows @ rows.mT).eigenvectors.flip(-1)
    return turned.mT @ rows


@torch.no_grad()
def normalised_information(factors: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the normalised mutual information of every two neurons.

    Args:
        factors: F of the neurons, [neurons, rank, n].
        alpha: the order of the entropy, above 1. On sparse activations 2 is useless: there the
            joint entropy exceeds the sum of the two in half of the pairs.

    Returns:
        nMI, fp32 [neurons, neurons], symmetric, with a neuron's information about itself on the
        diagonal; 0 where a neuron has no entropy.
    """
    neurons, rank, n = factors.shape
    one, other = torch.triu_indices(neurons, neurons, device=factors.device)
    flat = factors.flatten(0, 1)
    squares = flat.square()
    traces = (squares @ squares.T).mul_(n).view(neurons, rank, neurons, rank).transpose(1, 2)
    # Products of rows from the longest on, of every pair as many as its own trace asks for.
    longest, product = traces[one, other].flatten(1).sort(1, descending=True)
    missed = 1 - longest.cumsum(1) / longest.sum(1, keepdim=True)
    needed = (missed > LEFT_OUT_OF_PAIRS).sum(1) + 1
    joint = factors.new_empty(len(one))
    for pairs in needed.argsort(stable=True).split(PAIRS_AT_ONCE):
        most = int(needed[pairs[-1]])
        rows = product[pairs, :most]
        factor = flat[one[pairs, None] * rank + rows // rank]
        factor *= flat[other[pairs, None] * rank + rows % rank]
        # To each what it needs by itself, so that nothing depends on who is held with whom.
        factor[torch.arange(most, device=factor.device) >= needed[pairs, None]] = 0.0
        joint[pairs] = _entropy(factor, alpha)
    own = _entropy(factors, alpha)
    information = own[one] + own[other] - joint
    scale = (own[one] * own[other]).clamp_(min=0).sqrt_()
    normalised = torch.where(scale > 0, information / scale, 0.0)
    table = factors.new_empty(neurons, neurons)
    table[one, other] = table[other, one] = normalised
    return table


def _entropy(factors: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the entropies in bits of matrices given as factors of any scale, [..., rank, n]."""
    rank, n = factors.shape[-2:]
    gram = factors @ factors.mT if rank <= n else factors.mT @ factors
    values = torch.linalg.eigvalsh(gram).clamp_(min=0)
    values /= values.sum(-1, keepdim=True)
    return values.pow_(alpha).sum(-1).log2_() / (1 - alpha)

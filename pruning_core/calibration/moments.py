"""Second moments of a matrix's inputs, added up sequence by sequence in fp32.

Source: the statistics of Wanda (arXiv 2306.11695, section 3) and SparseGPT (arXiv 2301.00774,
section 3). Both are means over sequences of sums over tokens, so that a calibration set of any size
costs no more memory than one sequence.
"""

from __future__ import annotations

import torch


class InputMoments:
    """The moments of what enters one matrix."""

    def __init__(self, columns: int, device: torch.device, *, hessian: bool) -> None:
        """Begin with nothing seen.

        Args:
            columns: inputs of the matrix.
            hessian: keep all products of inputs, [in, in], not only the squares.
        """
        self._sequences = 0
        self._squares = torch.zeros(columns, device=device)
        self._products = torch.zeros(columns, columns, device=device) if hessian else None

    def add(self, inputs: torch.Tensor) -> None:
        """Add one sequence, [tokens, in]."""
        values = inputs.detach().float()
        self._sequences += 1
        self._squares += values.square().sum(0)
        if self._products is not None:
            self._products.addmm_(values.T, values)

    @property
    def norms(self) -> torch.Tensor:
        """``1/N sum_sequences sum_tokens x_j^2``, fp32 [in]."""
        return self._squares / self._sequences

    @property
    def hessian(self) -> torch.Tensor | None:
        """``2/N sum_sequences X X^T``, fp32 [in, in]; None if it was not asked for."""
        return None if self._products is None else self._products * (2 / self._sequences)

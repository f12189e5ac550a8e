"""A masked site as it will be once what stays makes up for what left, with gradients to the mask.

With x what enters a site's output projection, K the columns that stay, R those that leave, C the
second moments of x and P = (C_KK + lambda I)^-1, ridge repair is the same as predicting what leaves
from what stays and handing that on instead:

    x_R  <-  B x_K,    B = C_RK P

The mask is hard. Its gradient says what would come of one column more or less, the compensation
solved anew: of one that leaves what is not predicted of it, and what it tells of the others that
leave; of one that stays what would be missing once the others stood in for it. Both are exact for
single columns, to first order in what the model makes of them:

    r_R = x_R - B x_K,    r_K = (P x_K)_j / P_jj       (for a head with the blocks of P)
    x_R <- B x_K + S r_R,    S_ij = C_ij|K / (C_jj|K + lambda), 1 on the diagonal

Source: the block elimination of the optimal brain surgeon (ZipLM, arXiv 2302.04089, section 3.1)
read as a gradient; a construction of our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning_core.importance.damped import factor, scaled


@dataclass(frozen=True)
class Compensation:
    """How a site makes up for what a hard mask takes from it.

    Attributes:
        kept, gone: int64, the columns of either sort.
        prediction: B, [gone, kept].
        alone: [kept, kept], from x_K to r_K.
        told: S, [gone, gone].
        back: int64 [columns], where each column stands among those that stay and then those that
            leave.
    """

    kept: torch.Tensor
    gone: torch.Tensor
    prediction: torch.Tensor
    alone: torch.Tensor
    told: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(
        cls, products: torch.Tensor, mask: torch.Tensor, damping: float, width: int
    ) -> Compensation:
        """Solve for one mask.

        Args:
            products: fp32 [columns, columns], C up to a factor.
            mask: [columns], 0 or 1.
            damping: lambda over the mean diagonal of C.
            width: columns of one unit or head.

        Raises:
            PrunescopeError: if the moments cannot be inverted.
        """
        stays = mask.detach().to(products.device) > 0.5
        kept, gone = stays.nonzero()[:, 0], (~stays).nonzero()[:, 0]
        moments = scaled(products)
        inverse = torch.cholesky_inverse(factor(moments[kept][:, kept], damping, "a masked site"))
        cross = moments[gone][:, kept]
        prediction = cross @ inverse
        told = moments[gone][:, gone] - prediction @ cross.T
        told = told / (told.diagonal() + damping).clamp_min(torch.finfo(told.dtype).tiny)
        told.fill_diagonal_(1.0)
        back = torch.cat((kept, gone)).argsort()
        return cls(
            kept,
            gone,
            prediction.float(),
            _alone(inverse, width).float(),
            told.float(),
            back,
        )

    def __call__(self, mask: torch.Tensor, entering: torch.Tensor) -> torch.Tensor:
        """Return what the output projection gets, [..., columns], with gradients to the mask.

        Args:
            mask: [columns], with a graph; the mask that this was made for.
            entering: x, [..., columns].
        """
        tilt = (mask - mask.detach()).to(entering)
        inside, outside = entering[..., self.kept], entering[..., self.gone]
        prediction = self.prediction.to(entering)
        with torch.no_grad():
            missing = inside @ self.alone.to(entering).T
            unpredicted = outside - inside @ prediction.T
        stays = inside + tilt[self.kept] * missing
        restored = tilt[self.gone] * unpredicted
        leaves = stays @ prediction.T + restored @ self.told.to(entering).T
        return torch.cat((stays, leaves), dim=-1)[..., self.back]


def _alone(inverse: torch.Tensor, width: int) -> torch.Tensor:
    """Return diag(P_BB)^-1 P over the blocks B of `width` columns."""
    blocks = inverse.unflatten(0, (-1, width))
    own = (
        torch.stack([block[:, at * width : (at + 1) * width] for at, block in enumerate(blocks)])
        if len(blocks)
        else inverse.new_zeros(0, width, width)
    )
    return torch.linalg.solve(own, blocks).flatten(0, 1)

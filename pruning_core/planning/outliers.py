"""How many outliers a layer has, by which OWL gives some layers more room than others.

    D_l = 100 * |{weights of layer l with S > M * mean S}| / |weights of layer l|,   S = |W| ||X||_2

Source: OWL (arXiv 2310.05175, section 3.1): Wanda's scores of all matrices of a layer together, on
the dense model. The layer is walked once; nothing is written.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.walk import Walk
from pruning_core.model.anatomy import Anatomy
from pruning_core.progress import Tick, silent

FAR = 5.0
"""M: a score so many times the layer's mean is an outlier."""


def outlier_shares(
    model: PreTrainedModel,
    anatomy: Anatomy,
    windows: torch.Tensor,
    far: float = FAR,
    tick: Tick = silent,
) -> torch.Tensor:
    """Return the share of outliers in every layer, in percent, fp32 [layers].

    Args:
        model: dense, frozen; it is left as it was.
        windows: int64 [samples, tokens].
        far: how many times the mean makes an outlier.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if something is not finite.
    """
    walk = Walk(model, anatomy, windows, tick)
    shares = torch.zeros(anatomy.layers)
    for layer in range(anatomy.layers):
        linears = [linear for linear in anatomy.linears if linear.key.layer == layer]
        seen = walk.look(linears)
        scores = []
        for linear in linears:
            weight = model.get_parameter(linear.tensor).detach().float().abs()
            norms = seen[linear.tensor].moments.norms.sqrt()
            scores.append((weight * (norms[:, None] if linear.transposed else norms)).flatten())
        if scores:
            together = torch.cat(scores)
            shares[layer] = 100 * (together > far * together.mean()).float().mean().cpu()
        walk.step({})
    return shares

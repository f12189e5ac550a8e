"""How much each layer turns the residual stream: two measures in one streaming forward pass.

    block influence   BI_l = 1 - mean_t cos(h_l,t, h_l+1,t)              over all tokens t
    angular distance   d_l = mean_n arccos(cos(h_l,T, h_l+1,T)) / pi     last token T of window n

with h_l what enters layer l, in tokens of width `hidden_size`; h_l+1 of the last layer is what
leaves it, before the final norm.

Source: ShortGPT (arXiv 2403.03853, equation 1); Gromov et al. (arXiv 2403.17887, section 3.2) with
blocks of one layer. Cosines near 1 cancel, so they are taken in fp64 whatever the model's format.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from pruning_core.calibration.passes import each_window
from pruning_core.model.anatomy import Anatomy
from pruning_core.model.forward import decoder_layers, recorded
from pruning_core.progress import Tick, silent


@dataclass(frozen=True)
class LayerInfluence:
    """What each layer as a whole does to the hidden states.

    Attributes:
        block: fp32 [layers], the block influence, 0 (nothing turned) to 2.
        angular: fp32 [layers], the angular distance at the last token, 0 to 1.
    """

    block: torch.Tensor
    angular: torch.Tensor


@torch.no_grad()
def gather_block_influence(
    model: PreTrainedModel, anatomy: Anatomy, windows: torch.Tensor, tick: Tick = silent
) -> LayerInfluence:
    """Run every window through the model and return how far its layers turn what enters them.

    Args:
        model: dense; it is left as it was.
        windows: int64 [samples, tokens].
        tick: hears one step per sample.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if a hidden state is not finite.
    """
    layers = decoder_layers(model, anatomy)
    turned = torch.zeros(len(layers), dtype=torch.float64)
    angle = torch.zeros_like(turned)
    with recorded(layers, range(len(layers) + 1)) as states:
        for window in each_window(model, windows, "following layers", tick):
            model(input_ids=window.ids, use_cache=False)
            for layer in range(len(layers)):
                cosines = _cosines(states[layer], states[layer + 1])
                window.check(f"The residual stream around layer {layer} in", cosines)
                turned[layer] += 1 - cosines.mean()
                angle[layer] += cosines[-1].arccos() / pi
    return LayerInfluence((turned / len(windows)).float(), (angle / len(windows)).float())


def _cosines(entering: torch.Tensor, leaving: torch.Tensor) -> torch.Tensor:
    """Return the cosine at every token, fp64 [tokens], at most 1."""
    # Copied before they are widened: Metal has no fp64.
    before, after = (state[0].cpu().double() for state in (entering, leaving))
    return F.cosine_similarity(before, after, dim=-1).clamp_(-1, 1)

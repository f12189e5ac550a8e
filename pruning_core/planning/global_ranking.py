"""One ranking over the units of all sites: what FLAP calls adaptive across layers and modules.

Source: FLAP (arXiv 2312.11983, section 3.3), structure AL-AM of its public code
(CASIA-IVA-Lab/FLAP, lib/prune.py). Units of all sites are sorted by standardised score, the best
first, each with its cost, and the cut is where the cost so far is nearest to what should stay. A
unit stays if it is strictly better than the one at the cut, so that one does not. A site may lose
everything, or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pruning_core.recipe import SiteKey, check_sparsity


def global_ranking(
    scores: Mapping[SiteKey, torch.Tensor],
    costs: Mapping[SiteKey, float],
    sparsity: float,
    *,
    whole_costs: bool = False,
) -> dict[SiteKey, torch.Tensor]:
    """Return which units stay, by one ranking over all sites.

    At sparsity 0 nothing leaves, where the authors' rule would take the worst unit all the same.

    Args:
        scores: comparable across sites, such as z-scores, fp32 [units] by site.
        costs: of one unit of a site, in any unit common to all. FLAP counts a channel as 1 and a
            head as its matrices' share, ``4 * head_dim / 3`` where every head has its own key.
        sparsity: the fraction of the cost of all units that should leave.
        whole_costs: cut the costs down to whole numbers first. The authors' code does so without
            meaning to (its tensor of costs is an integer one: 512/3 counts as 170), so the numbers
            they published are with it.

    Returns:
        bool [units] by site, True where a unit stays.

    Raises:
        PrunescopeError: if `sparsity` is not between 0 and 1.
    """
    check_sparsity(sparsity, "the whole model")
    if sparsity == 0:
        return {key: torch.ones_like(values, dtype=torch.bool) for key, values in scores.items()}
    ranked = torch.cat(list(scores.values())).sort(descending=True, stable=True)
    counts = torch.tensor([len(values) for values in scores.values()])
    by_site = torch.tensor([costs[key] for key in scores], dtype=torch.float64)
    each = by_site.repeat_interleave(counts)
    if whole_costs:
        each = each.trunc()
    so_far = each[ranked.indices].cumsum(0)
    cut = ranked.values[(so_far - (1 - sparsity) * each.sum()).abs().argmin()]
    return {key: values > cut for key, values in scores.items()}

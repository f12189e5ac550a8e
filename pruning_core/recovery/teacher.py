"""The dense model beside the pruned one, without a second copy of its weights.

A workbench keeps the dense parameters and puts smaller ones in their place. A copy of the tree of
modules that is made while the model is dense, and that shares every tensor, stays dense whatever is
applied afterwards.
"""

from __future__ import annotations

import copy

from transformers import PreTrainedModel


def twin_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model of its own modules and the same tensors; it may be run and not trained."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin: PreTrainedModel = copy.deepcopy(model, shared)
    return twin

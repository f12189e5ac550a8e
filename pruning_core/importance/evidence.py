"""What estimators may look at: tensors and statistics, each made when first asked for.

Estimators never see the model. Those that need its weights ask for one at a time, those that need
gradients get them reduced, those that learn get a loss. What would not fit in memory is refused
before it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning_core.calibration import Split, calibration_windows, load_text
from pruning_core.calibration.activations import ActivationStatistics, gather_activations
from pruning_core.calibration.batch_taylor import (
    Salience,
    SliceScores,
    demand_batch_taylor,
    gather_batch_taylor,
)
from pruning_core.calibration.block_influence import LayerInfluence, gather_block_influence
from pruning_core.calibration.closeup import weight_scores
from pruning_core.calibration.moments import InputMoments, gather_moments
from pruning_core.calibration.samples import gather_samples
from pruning_core.calibration.taylor import TaylorStatistics, gather_taylor
from pruning_core.importance.masking import MaskedDivergence, tokens_together
from pruning_core.model.anatomy import Anatomy, Coupling
from pruning_core.model.memory import demand_scoring
from pruning_core.progress import Tick, silent
from pruning_core.recipe import Calibration, SiteKey


class Evidence:
    """One model, one calibration set, and everything computed from them so far.

    Attributes:
        anatomy: layers, sites and units.
        seed: for whatever is drawn at random.
        tick: hears of long work. Evidence outlives the job that made it, so the next job sets its
            own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        anatomy: Anatomy,
        windows: Callable[[int | None, Tick], torch.Tensor],
        *,
        seed: int = 0,
        tick: Tick = silent,
    ) -> None:
        """Wrap a dense model.

        Args:
            windows: draws calibration windows, int64 [windows, tokens]: as many as asked for (or
                as the text has), or the recipe's own for None, and tells the tick it is given of
                the reading. Estimators that look at no text never call it.
        """
        self.anatomy = anatomy
        self.seed = seed
        self.tick = tick
        self._model = model
        self._draw_windows = windows
        self._slices: dict[Salience, SliceScores] = {}
        self._moments: dict[bool, Mapping[SiteKey, InputMoments]] = {}

    @cached_property
    def windows(self) -> torch.Tensor:
        """The recipe's calibration windows, int64 [samples, tokens]."""
        return self._draw_windows(None, self.tick)

    @cached_property
    def taylor(self) -> TaylorStatistics:
        """Reduced per-sample gradients of the calibration windows.

        Raises:
            PrunescopeError: there is no memory for them.
        """
        demand_scoring(self._model, self.windows.shape[-1])
        return gather_taylor(self._model, self.anatomy, self.windows, self.tick)

    def batch_taylor(self, kinds: Iterable[Salience]) -> Mapping[Salience, SliceScores]:
        """Return what every slice is worth by the gradient of all calibration windows together.

        Raises:
            PrunescopeError: there is no memory for what the kinds keep of every weight.
        """
        wanted = list(kinds)
        missing = [kind for kind in wanted if kind not in self._slices]
        if missing:
            demand_batch_taylor(self._model, self.anatomy, self.windows.shape[-1], missing)
            self._slices |= gather_batch_taylor(
                self._model, self.anatomy, self.windows, missing, self.tick
            )
        return {kind: self._slices[kind] for kind in wanted}

    @cached_property
    def activations(self) -> ActivationStatistics:
        """Statistics of what enters the output projections, over the calibration windows.

        A forward pass keeps nothing for a backward one: who can measure a model can listen to it.
        """
        return gather_activations(self._model, self.anatomy, self.windows, self.tick)

    def has_moments(self, *, hessian: bool) -> bool:
        """Return whether the moments have been gathered."""
        return True in self._moments or hessian in self._moments

    def moments(self, *, hessian: bool) -> Mapping[SiteKey, InputMoments]:
        """Return the moments of what enters the output projections, over the calibration windows.

        Args:
            hessian: whether products of inputs are among them.

        Raises:
            PrunescopeError: there is no memory for the products.
        """
        if not self.has_moments(hessian=hessian):
            self._moments[hessian] = gather_moments(
                self._model, self.anatomy, self.windows, self.tick, hessian=hessian
            )
        return self._moments[True] if True in self._moments else self._moments[False]

    @cached_property
    def layer_influence(self) -> LayerInfluence:
        """How far each layer turns the hidden states, over the calibration windows."""
        return gather_block_influence(self._model, self.anatomy, self.windows, self.tick)

    def samples(self, tokens: int) -> Mapping[SiteKey, torch.Tensor]:
        """Return what enters the output projections at so many seeded token positions.

        By site fp32 [positions, columns], the positions out of all calibration windows.
        """
        return gather_samples(self._model, self.anatomy, self.windows, tokens, self.seed, self.tick)

    def divergence(
        self, windows: int, *, gradients: bool = True, repaired: bool = False
    ) -> MaskedDivergence:
        """Return how far the masked model is from the dense one, on so many windows.

        Args:
            gradients: whether it will be asked for gradients.
            repaired: whether ridge repair mends what is masked.

        Raises:
            PrunescopeError: there is no memory for its gradients.
        """
        drawn = self._draw_windows(windows, self.tick)
        if gradients:
            demand_scoring(self._model, tokens_together(self._model.device, drawn.shape[-1]))
        moments = self.moments(hessian=True) if repaired else None
        return MaskedDivergence(self._model, self.anatomy, drawn, moments)

    def closeup(self, tensor: str) -> torch.Tensor:
        """Return the fine-grained score of every weight of one matrix, fp32 [out, in].

        Raises:
            PrunescopeError: there is no memory for its gradient.
        """
        demand_scoring(self._model, self.windows.shape[-1])
        return weight_scores(self._model, tensor, self.windows, self.tick)

    def weight(self, coupling: Coupling) -> torch.Tensor:
        """Return the dense tensor of a coupling, where it is and in its own dtype."""
        return self._model.get_parameter(coupling.tensor).detach()


def evidence_for(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    anatomy: Anatomy,
    calibration: Calibration,
    tick: Tick = silent,
) -> Evidence:
    """Return the evidence of a dense model on a recipe's calibration; the text is read when needed.

    Raises:
        PrunescopeError: later, when an estimator asks for windows that the corpus cannot give.
    """

    def draw(count: int | None, tick: Tick) -> torch.Tensor:
        return calibration_windows(
            load_text(calibration.corpus, Split.CALIBRATION, tick),
            tokenizer,
            count=calibration.windows if count is None else count,
            length=calibration.length,
            seed=calibration.seed if count is None else calibration.seed + 1,
            at_most=count is not None,
        )

    return Evidence(model, anatomy, draw, seed=calibration.seed, tick=tick)

"""Measured latency: milliseconds per token of every site by its width, and of all the rest.

Whether a narrower site is faster, and from which width on, is decided by kernels and caches and not
by a count of operations: the answer is a staircase, and it has to be measured where the model will
run. Here the real modules run inside the model's own forward, on the model's device, with a clock
at both ends of every site. The widths are dealt out over the layers and change seats from round to
round: one pass times many of them under the same conditions, and a machine that is busy for a while
slows all of them alike. Sites of one shape share a staircase. The parts of a pass add up to the
pass, so staircases and rest predict the time of a model whose sites have any widths.

What this leaves out: tokenizing, choosing tokens and copying them between devices; a cache that
outgrows the given length; other batches and lengths, which have staircases of their own; widths
between two measured ones, which lie on the straight line between them, where the kernel may make a
jump. The clocks count into the rest, some microseconds a site. On CUDA they are events in the
stream, which do not hold it up; on other accelerators every clock waits for the device, which makes
the parts a little longer than in an undisturbed pass.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from pruning_core.evaluation.workload import PASSES, Workload, check_length, forward_pass
from pruning_core.importance.map import ImportanceMap, SiteScores
from pruning_core.model.anatomy import Anatomy, Part, Site, Width
from pruning_core.planning.budget import Limits, site_widths
from pruning_core.planning.plan import UnitPlan, make_plan
from pruning_core.progress import Tick, silent
from pruning_core.recipe import Recipe, Scoring, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench

MEETINGS = 3
"""How often, at the least, a width is dealt to a site of its shape."""


@dataclass(frozen=True)
class Staircase:
    """Milliseconds of a site by its width.

    Attributes:
        kind: of the site.
        workload: what it was timed at.
        widths: those that were timed, from dense downwards.
        milliseconds: per token, of each; a narrower one may well take longer.
    """

    kind: SiteKind
    workload: Workload
    widths: tuple[Width, ...]
    milliseconds: tuple[float, ...]

    def at(self, width: Width) -> float:
        """Return the milliseconds per token at a width, on the line between measured ones."""
        known = [measured.parameters for measured in reversed(self.widths)]
        return float(np.interp(width.parameters, known, self.milliseconds[::-1]))


@dataclass(frozen=True)
class MeasuredLatency:
    """Milliseconds per token of all parts of a model; the module says what they leave out.

    Attributes:
        workload: what it was timed at.
        sites: the staircase of each site, in layer order.
        rest: of everything that is no site: embedding, norms, rotary tables, masks, head.
    """

    workload: Workload
    sites: Mapping[SiteKey, Staircase]
    rest: float

    def at(self, site: Site, width: Width) -> float:
        """Return the milliseconds per token of a site at a width."""
        return self.sites[site.key].at(width)


@dataclass(frozen=True)
class _Shape:
    """Sites that are alike, and the widths at which they are timed."""

    sites: tuple[Site, ...]
    widths: tuple[Width, ...]

    @property
    def rounds(self) -> int:
        """How many rounds it takes for each width to meet enough sites."""
        return -(-MEETINGS * len(self.widths) // len(self.sites))

    def seats(self, turn: int) -> dict[SiteKey, Width]:
        """Deal the widths out, going on where the round before ended."""
        start = turn * len(self.sites)
        return {
            site.key: self.widths[(start + place) % len(self.widths)]
            for place, site in enumerate(self.sites)
        }


@torch.no_grad()
def measure_latency(
    bench: Workbench,
    workload: Workload,
    *,
    multiple: int = 1,
    at_most: int = 10,
    tick: Tick = silent,
) -> MeasuredLatency:
    """Time every shape of site at widths from dense to none.

    The plan that is applied comes back at the end, also if the work fails or is called off. Which
    units are kept makes no difference to the time, so nothing needs to be scored.

    Args:
        multiple: the numbers of channels that are timed are multiples of this: the one that the
            widths to be looked up will have, as others may have slower kernels.
        at_most: how many widths of a shape are timed, 3 or more.
        tick: hears one step per pass.

    Raises:
        Cancelled: by `tick`, before each pass.
        PrunescopeError: if the model has not so many positions.
    """
    check_length(bench.model, workload)
    limits = Limits(multiple=multiple, may_remove=True)
    shapes = [
        _Shape(sites, site_widths(sites[0], limits, at_most=at_most))
        for sites in _alike(bench.model, bench.anatomy)
    ]
    times: list[dict[Width, list[float]]] = [defaultdict(list) for _ in shapes]
    rests: list[float] = []
    rounds, passes = max(shape.rounds for shape in shapes), 1 + PASSES[workload.phase]
    with bench.given_back():
        for turn in range(rounds):
            seats = {key: w for shape in shapes for key, w in shape.seats(turn).items()}
            bench.apply(_plan(bench.anatomy, seats))
            forward = forward_pass(bench.model, workload)
            for index in range(passes):
                tick("timing", turn * passes + index, rounds * passes, str(workload))
                parts, rest = _timed(bench, forward)
                if index == 0:
                    continue
                rests.append(rest / workload.tokens)
                for shape, known in zip(shapes, times, strict=True):
                    for site in shape.sites:
                        known[seats[site.key]].append(parts[site.key] / workload.tokens)
    tick("timing", rounds * passes, rounds * passes, str(workload))
    staircases: dict[SiteKey, Staircase] = {}
    for shape, known in zip(shapes, times, strict=True):
        medians = tuple(statistics.median(known[width]) for width in shape.widths)
        staircase = Staircase(shape.sites[0].key.kind, workload, shape.widths, medians)
        staircases |= {site.key: staircase for site in shape.sites}
    return MeasuredLatency(workload, dict(sorted(staircases.items())), statistics.median(rests))


def _alike(model: PreTrainedModel, anatomy: Anatomy) -> list[tuple[Site, ...]]:
    """Return the sites grouped by shape, and attention by whether it slides over a window too."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None)
    groups: dict[Any, list[Site]] = defaultdict(list)
    for site in anatomy.sites:
        attention = site.key.kind is SiteKind.ATTENTION
        groups[
            site.key.kind,
            kinds[site.key.layer] if attention and kinds else None,
            tuple((c.axis, c.slice_size, c.segments) for c in site.couplings),
            tuple(size for _, size in site.fixed),
        ].append(site)
    return [tuple(group) for group in groups.values()]


def _plan(anatomy: Anatomy, seats: Mapping[SiteKey, Width]) -> UnitPlan:
    """Return a plan that gives every site its width, whichever units that keeps."""
    recipe = Recipe("timing", "timing").with_sparsity({k: w.sparsity for k, w in seats.items()})
    level = {
        site.key: SiteScores(
            torch.zeros(site.units),
            torch.zeros(site.counts[Part.QUERY_HEAD]) if site.heads_per_unit else None,
        )
        for site in anatomy.sites
    }
    return make_plan(recipe, ImportanceMap("timing", Scoring(), level), anatomy)


def _timed(bench: Workbench, forward: Callable[[], None]) -> tuple[dict[SiteKey, float], float]:
    """Return the milliseconds of each site in one pass, and those of the rest of the pass."""
    clock = _Clock(bench.model.device)
    with _clocked(bench, clock) as marks:
        start = clock.read()
        forward()
        end = clock.read()
    clock.settle()
    parts = {key: clock.between(*ends) for key, ends in marks.items()}
    return parts, clock.between(start, end) - sum(parts.values())


@contextmanager
def _clocked(bench: Workbench, clock: _Clock) -> Iterator[Mapping[SiteKey, Sequence[Any]]]:
    """Read a clock where each site begins and where it ends, by whatever stands in for it."""
    marks: dict[SiteKey, list[Any]] = {}
    with ExitStack() as hooks:
        for site in bench.anatomy.sites:
            first, *_ = modules = [bench.model.get_submodule(name) for name in site.replaced]
            begins = first.register_forward_pre_hook(
                lambda *_args, key=site.key: marks.__setitem__(key, [clock.read()]), prepend=True
            )
            ends = modules[-1].register_forward_hook(
                lambda *_args, key=site.key: marks[key].append(clock.read())
            )
            hooks.callback(begins.remove)
            hooks.callback(ends.remove)
        yield marks


class _Clock:
    """The time on a device: on CUDA that of its stream, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events = device.type == "cuda"

    def read(self) -> Any:
        """Return a mark of now."""
        if self._events:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            return event
        self.settle()
        return time.perf_counter()

    def settle(self) -> None:
        """Wait for what was asked of the device."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)

    def between(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two marks, once the device has settled."""
        return float(start.elapsed_time(end) if self._events else 1000 * (end - start))

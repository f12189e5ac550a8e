"""What a report is made of: numbers with how they were measured, whatever file they came from.

Numbers stand together only where they were measured alike: every result carries `Under` which
conditions, and the page never draws two of them on one axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pruning_core.history import Conditions, SavedRun
from pruning_core.recipe import Recipe


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; infinite where it overflowed, without ends where none is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference(Estimate):
    """A number beside the dense model's, judged on the same windows or items.

    Attributes:
        beyond_noise: whether it is more than chance would make it.
    """

    beyond_noise: bool = False

    @property
    def verdict(self) -> str:
        """The judgement in words."""
        if self.low is None or self.high is None:
            return "no interval"
        return "more than noise" if self.beyond_noise else "within noise"


@dataclass(frozen=True)
class Place:
    """On which weights and where something was measured.

    Attributes:
        model: its reference, as text.
        fingerprint: identifies its weights.
        device, dtype: where it was and in which number format.
    """

    model: str = field(compare=False)
    fingerprint: str
    device: str
    dtype: str


@dataclass(frozen=True)
class Under:
    """All that two perplexities must have in common to stand beside each other."""

    place: Place
    conditions: Conditions
    window: int
    stride: int | None


@dataclass(frozen=True)
class Method:
    """How a measurement was made, for the table at the end.

    Attributes:
        corpus, source: the text's name, and where it came from.
        windows, tokens: how many were measured.
        bos: where the begin-of-text token stood.
        about: who measures so.
        environment: versions and machine, by name.
    """

    corpus: str
    source: str
    windows: int
    tokens: int
    bos: str
    about: str
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Side:
    """The dense or a pruned model, measured; None is what the file does not say.

    Attributes:
        perplexity, accuracy: of the next token.
        parameters, bytes: of the whole model; zeros do not count among the parameters.
        of_prunable, of_linears, of_all: which fraction left of what can be pruned, of the matrices
            in the layers, and of all parameters.
        choosing, measuring: seconds.
        peak: bytes in use at most while it was chosen.
    """

    perplexity: Estimate
    accuracy: Estimate
    parameters: int | None = None
    bytes: int | None = None
    of_prunable: float | None = None
    of_linears: float | None = None
    of_all: float | None = None
    choosing: float | None = None
    measuring: float | None = None
    peak: int | None = None


@dataclass(frozen=True)
class Result:
    """A recipe beside the dense model, or the dense model alone, under one protocol.

    Attributes:
        label: what to call the recipe.
        recipe: what was pruned; None for the dense model alone, `pruned` then, too.
        under, method: how it was measured.
        leaked: whether calibration and measurement text overlap.
        ratio: perplexity, times the dense one.
        accuracy: difference to the dense one.
        divergence, same_prediction: of the two models' predictions, nats and share.
        saved: the run, where it was one.
    """

    label: str = field(compare=False)
    recipe: Recipe | None
    under: Under
    method: Method
    leaked: bool
    dense: Side
    pruned: Side | None = None
    ratio: Difference | None = None
    accuracy: Difference | None = None
    divergence: Estimate | None = None
    same_prediction: Estimate | None = None
    saved: SavedRun | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Asked:
    """What was asked of a task: only answers to the same items can be compared.

    Attributes:
        name, title: of the task.
        items, of: how many were asked, and how many there are.
        sample: the seed that drew them; None for the first ones.
        scorer: who scored.
        sha256: of the task's file.
    """

    name: str
    title: str
    items: int
    of: int
    sample: int | None
    scorer: str
    sha256: str


@dataclass(frozen=True)
class Answers:
    """Right answers of the dense model, and of a recipe, to a task's items.

    Attributes:
        label, recipe: as of a `Result`.
        place: on which weights and where.
        asked: which items.
        source, note: where they came from, and what is to be known of them.
        chance: share that guessing gets right.
        leaked: whether the recipe was calibrated on them.
        dense, pruned, delta: by metric, the last two empty for the dense model alone.
    """

    label: str = field(compare=False)
    recipe: Recipe | None
    place: Place
    asked: Asked
    source: str
    note: str
    chance: float
    leaked: bool
    dense: Mapping[str, Estimate]
    pruned: Mapping[str, Estimate]
    delta: Mapping[str, Difference]


@dataclass(frozen=True)
class Sample:
    """What the dense model, and a recipe, wrote after a prompt; None for the dense model alone."""

    label: str = field(compare=False)
    recipe: Recipe | None
    model: str
    prompt: str
    dense: str
    pruned: str | None


@dataclass(frozen=True)
class Findings:
    """All that files hold.

    Attributes:
        results, answers, samples: what was measured.
        notes: sentences that a file brings for its readers, and what is to be known of it.
        failures: what could not be measured, and why.
    """

    results: tuple[Result, ...] = ()
    answers: tuple[Answers, ...] = ()
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.results or self.answers or self.samples)

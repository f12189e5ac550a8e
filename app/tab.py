"""Everything that one browser tab remembers; `app.state` alone reads and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from app.results import Answers, Measured, Sample
from app.undo import Undo
from pruning_core.history import Conditions
from pruning_core.jobs import Job
from pruning_core.recipe import Calibration, Recipe, Scalar, SiteKey


@dataclass
class Tab:
    """Everything of one tab."""

    owner: str = field(default_factory=lambda: uuid4().hex)
    histories: dict[str, Undo] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    settings: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    jobs: dict[str, Job[Any]] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    shown: dict[str, object] = field(default_factory=dict)
    measured: Measured | None = None
    answers: Answers | None = None
    prompt: str = "A decorator in Python is"
    question: str = "The best thing about a small team is that"
    asked: object = None
    asked_smaller: tuple[Recipe, int] | None = None
    refused: tuple[Recipe, str] | None = None
    probe: str = "probe"
    sample: Sample | None = None
    sample_items: int = 50
    shape: str = "uniform"
    fusion: str = "hybrid"
    waiting: float | None = None
    draft: Mapping[SiteKey, float] | None = None
    panel: str = "sliders"
    budget: str = "parameters"
    budget_share: int = 85
    ceiling: float = 1.5
    multiple: int = 8
    keep_mlp: int = 10
    keep_attention: int = 0
    may_remove: bool = True
    phase: str = "decode"
    batch: int = 1
    length: int = 512
    instruments: tuple[str, ...] = ("fine", "coarse", "magnitude")
    compared_at: int = 20
    compared_seeds: int = 1
    compared: tuple[Measured, ...] = ()
    conditions: Conditions | None = None
    picked: str | None = None
    beside: str | None = None
    uploads: int = 0
    link: Recipe | None = None
    link_read: bool = False
    link_told: bool = False
    layer: int = 0
    requested: object = None
    allow_leak: bool = False
    autoloaded: bool = False
    drawing: bool = False
    stale: bool = False
    checked: str | None = None
    notice: str | None = None
    told: bool = False

"""The tables of ``survey``: which methods, at which sparsities, under which repair."""

from __future__ import annotations

from typing import NamedTuple

from pruning_core.recipe import STRUCTURED, Pattern, Scalar
from pruning_core.repair import NO_REPAIR, Repair, RepairKind

BIAS, RIDGE = Repair(RepairKind.BIAS), Repair(RepairKind.RIDGE)

Settings = tuple[tuple[str, Scalar], ...]


class Row(NamedTuple):
    """One row of the table: ``Row("flap", (), STRUCTURED, 0.2, BIAS)``.

    Attributes:
        estimator: the name of a registered estimator.
        settings: its parameters that the table names, defaults among them.
        pattern: what leaves.
        sparsity: the asked fraction of all that the method can prune under the pattern.
        repair: what is done for what stays.
    """

    estimator: str
    settings: Settings
    pattern: Pattern
    sparsity: float
    repair: Repair = NO_REPAIR

    @property
    def label(self) -> str:
        """The method as the table names it."""
        values = [str(value) for _, value in self.settings]
        repair = [] if not self.repair else [f"+ {self.repair.kind}"]
        return " ".join([self.estimator, *values, *repair])


METHODS = (
    *(
        Row(name, (), Pattern.parse(pattern), 0.5)
        for pattern in ("unstructured", "4:8", "2:4")
        for name in ("magnitude", "wanda", "sparsegpt", "ria", "dass")
    ),
    *(
        Row(name, settings, STRUCTURED, sparsity, repair)
        for sparsity in (0.2, 0.5)
        for name, settings, repair in (
            ("magnitude", (("norm", "l2"),), NO_REPAIR),
            ("wanda-sp", (), NO_REPAIR),
            ("flap", (), NO_REPAIR),
            ("flap", (), BIAS),
            ("llm-pruner", (("taylor", "vector"),), NO_REPAIR),
            ("llm-pruner", (("taylor", "element1"),), NO_REPAIR),
            ("fine", (), NO_REPAIR),
            ("coarse", (), NO_REPAIR),
            ("mutual-information", (), NO_REPAIR),
            ("hybrid", (), NO_REPAIR),
        )
    ),
)

UNITS_TO_REPAIR: tuple[tuple[str, Settings], ...] = (
    ("wanda-sp", ()),
    ("flap", ()),
    ("obs", ()),
    ("llm-pruner", (("taylor", "element1"),)),
    ("hybrid", ()),
)
LEARNED_REPAIRED: tuple[tuple[str, Settings], ...] = (("hybrid", (("loop", "repaired"),)),)

REPAIRS = (
    *(
        Row(name, settings, STRUCTURED, sparsity, repair)
        for units in (UNITS_TO_REPAIR, LEARNED_REPAIRED)
        for sparsity in (0.5, 0.2)
        for name, settings in units
        for repair in (NO_REPAIR, RIDGE)
    ),
    *(
        Row(name, (), Pattern.parse(pattern), 0.5, repair)
        for pattern in ("unstructured", "2:4")
        for name in ("wanda", "sparsegpt")
        for repair in (NO_REPAIR, RIDGE)
    ),
)

TABLES = {"methods": METHODS, "repair": REPAIRS}
"""What a survey is of, by the name of its table, without the dense row; what is quick first."""

NOTES = {
    "dass": "dass prunes MLPs only: its 50 % is of their weights, attention stays dense. Compare "
    "it with the others by what left the layers.",
    "flap": "flap + bias: the biases that stand in for units count among the parameters of the "
    "pruned model, and do not lower its sparsity.",
    "mutual-information": "mutual-information is a reconstruction that tells MLP channels apart; "
    "heads go by their mean activation.",
    "fine": "fine and coarse are the granularities that hybrid fuses, each by itself.",
    "hybrid": "hybrid is a reconstruction of HyWIA; its choosing includes the training.",
}
"""What a reader must know of single methods, by estimator."""

"""Holds every golden tensor against what Prunescope makes of the same inputs, in one table.

``python -m tests.golden.results`` writes RESULTS.md beside this file. Tolerances are those of
index.json, read as they are stated there; a sentence that cannot be read is an error.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruning_core.calibration.block_influence import gather_block_influence
from pruning_core.importance.estimators import dass, ria, sparsegpt, wanda
from pruning_core.importance.estimators.flap import column_scores
from pruning_core.model.anatomy import read_anatomy
from pruning_core.model.loading import load
from pruning_core.planning.allocation import owl_kept
from pruning_core.recipe import SiteKind
from tests.golden import vectors
from tests.importance.estimators import (
    test_dass,
    test_flap,
    test_llm_pruner,
    test_ria,
    test_sparsegpt,
)
from tests.importance.estimators.weight_cases import CUTS, golden_matrix, run
from tests.model import tiny_checkpoints
from tests.planning import test_outliers, test_thinning

TABLE = vectors.HERE / "RESULTS.md"

Tensors = dict[str, torch.Tensor]


def _dense() -> Tensors:
    found = {}
    for name in ("gqa", "mha"):
        with tempfile.TemporaryDirectory() as folder:
            # The golden models come without a tokenizer, and Prunescope loads none without.
            home = shutil.copytree(vectors.HERE / f"model_{name}", Path(folder) / name)
            tiny_checkpoints.tokenizer().save_pretrained(home)
            model = load(str(home), device="cpu", dtype="float32").model
            found[f"model_{name}"] = model(vectors.tokens()[:1]).logits
    return found


def _wanda() -> Tensors:
    matrix, half = golden_matrix(), CUTS["unstructured_50"]
    assert matrix.norms is not None
    masks = {f"mask_{cut}": run("wanda", matrix, CUTS[cut]).removed for cut in CUTS}
    return masks | {
        "scaler_row": matrix.norms,
        "metric": wanda.scores(matrix),
        "mask_variant_50": run("wanda", matrix, half, variant=True).removed,
        "mask_unstructured_50_dead": run("wanda", golden_matrix(dead=True), half).removed,
    }


def _magnitude() -> Tensors:
    return {
        f"mask_{cut}": run("magnitude", golden_matrix(), CUTS[cut], threshold="inclusive").removed
        for cut in ("unstructured_30", "unstructured_50", "2_4")
    }


def _sparsegpt() -> Tensors:
    matrix = golden_matrix()
    assert matrix.hessian is not None
    factor = sparsegpt.inverse_factor(matrix.hessian, 0.01, "golden")
    found = {"H": matrix.hessian, "Hinv_diag": factor.diagonal()}
    cases = [
        *((f"{cut}_bs{block}", matrix, cut, block) for cut, block in test_sparsegpt.WITH_WEIGHTS),
        *((f"{cut}_bs{block}", matrix, cut, block) for cut, block in test_sparsegpt.MASKS_ONLY),
        ("unstructured_50_bs128_dead", golden_matrix(dead=True), "unstructured_50", 128),
    ]
    for name, inputs, cut, block in cases:
        left = run("sparsegpt", inputs, CUTS[cut], block=block, threshold="inclusive")
        found |= {f"mask_{name}": left.removed, f"weight_{name}": left.weight}
    for cut, block in test_sparsegpt.MASKS_ONLY:
        del found[f"weight_{cut}_bs{block}"]
    return found


def _dass() -> Tensors:
    channels = test_dass.golden("up").channels
    assert channels is not None
    metrics = {f"{n}_metric": dass.scores(test_dass.golden(n)) for n in ("up", "down")}
    masks = {
        f"{name}_mask_{cut}": run("dass", test_dass.golden(name), CUTS[cut]).removed
        for name in ("gate", "up", "down")
        for cut in ("unstructured_50", "2_4", "4_8")
    }
    return {"down_scaler_row": channels, **metrics, **masks}


def _ria() -> Tensors:
    masks = {
        name: run("ria", golden_matrix(), CUTS[cut], **settings).removed
        for name, (cut, settings) in test_ria.GOLDEN.items()
    }
    return {"metric": ria.scores(golden_matrix(), 0.5), **masks}


def _pruner_zero() -> Tensors:
    return {
        f"mask_{cut}": run("pruner-zero", golden_matrix(), CUTS[cut]).removed
        for cut in ("unstructured_50", "2_4")
    }


def _llm_pruner(case: str) -> Tensors:
    def one(name: str) -> torch.Tensor:
        what = name.rpartition(".")[2]
        if what == "pruned_logits_last_token":
            return test_llm_pruner.logits_after(case, name)[1]
        if what == "attn_member_channel_scores":
            return test_llm_pruner.members_of(case, name)
        if what.endswith("_pruned"):
            return torch.tensor(test_llm_pruner.gone_of(case, name))
        return test_llm_pruner.units_of(case, name)[2]

    return {name: one(name) for name in vectors.index(case)}


def _flap() -> Tensors:
    """Return what the tests of FLAP compute, layers stacked."""
    evidence, found = test_flap.evidence(), {}
    seen = evidence.activations.sites
    for kind, short in test_flap.SHORT.items():
        keys = [site.key for site in test_flap.sites(kind)]
        found[f"{short}_mean_input"] = torch.stack([seen[key].mean for key in keys])
        found[f"WIFN.{short}_scaler"] = torch.stack([seen[key].norms for key in keys])
        found[f"WIFV.{short}_fluctuation"] = torch.stack([seen[key].published for key in keys])
        for metric in test_flap.METRICS:
            settings = test_flap.settings(metric)
            found[f"{metric}.{short}_metric"] = torch.stack(
                [column_scores(evidence, site, settings) for site in test_flap.sites(kind)]
            )
    for metric in test_flap.METRICS:
        z_scores = test_flap.z_scores(metric)
        found[f"{metric}.attn_z"] = test_flap.stacked(z_scores, SiteKind.ATTENTION)
        kept = test_flap.adaptive(metric, whole_costs=True)
        found |= _kept(f"{metric}.AL-AM", kept) | _biases(f"{metric}.AL-AM", kept)
    uniform = test_flap.uniform()
    found |= _kept("WIFV.UL-UM", uniform) | _biases("WIFV.UL-UM", uniform)
    found |= _kept("WIFV.AL-AM.float_cost", test_flap.adaptive("WIFV", whole_costs=False))
    found["WIFV.AL-AM.logits_first_sequence"] = test_flap.logits_without_the_units()
    return found


def _kept(prefix: str, kept: test_flap.Kept) -> Tensors:
    return {
        f"{prefix}.{short}_keep": test_flap.stacked(kept, kind)
        for kind, short in test_flap.SHORT.items()
    }


def _biases(prefix: str, kept: test_flap.Kept) -> Tensors:
    biases = test_flap.biases(kept)
    names = {SiteKind.ATTENTION: "o_proj_bias", SiteKind.MLP: "down_proj_bias"}
    return {f"{prefix}.{name}": test_flap.stacked(biases, kind) for kind, name in names.items()}


def _owl() -> Tensors:
    shares = test_outliers.golden_shares(vectors.model("gqa"))
    return {
        "outlier_percent": shares,
        "layer_keep_ratio": owl_kept(shares, 0.5, 0.08),
        "pruned_count": test_outliers.golden_zeros(),
    }


def _block_influence() -> Tensors:
    model, windows = vectors.model("gqa"), vectors.tokens()
    found = gather_block_influence(model, read_anatomy(model), windows)
    block, angular = found.block.double(), found.angular.double()
    return {
        "bi_mean": block,
        "bi_sum": block * windows.numel(),
        "angular_last_token_n1_sum": angular * len(windows),
    }


def _wanda_by_layer() -> Tensors:
    weights, logits = test_thinning.golden_half("wanda")
    masks = {f"{name.removesuffix('.weight')}.mask": w == 0 for name, w in weights.items()}
    return {**masks, "logits": logits}


def _sparsegpt_by_layer() -> Tensors:
    weights, logits = test_thinning.golden_half("sparsegpt", threshold="inclusive")
    return {**weights, "logits": logits}


METHODS: dict[str, tuple[str, Callable[[], Tensors]]] = {
    "dense_logits": ("Dense model, loaded and run", _dense),
    "wanda": ("Wanda", _wanda),
    "magnitude": ("Magnitude", _magnitude),
    "sparsegpt": ("SparseGPT", _sparsegpt),
    "dass": ("DaSS", _dass),
    "ria": ("RIA", _ria),
    "pruner_zero": ("Pruner-Zero", _pruner_zero),
    "llm_pruner": ("LLM-Pruner", lambda: _llm_pruner("llm_pruner")),
    "llm_pruner_gqa": ("LLM-Pruner, grouped heads", lambda: _llm_pruner("llm_pruner_gqa")),
    "flap": ("FLAP", _flap),
    "owl": ("OWL", _owl),
    "shortgpt": ("ShortGPT", _block_influence),
    "sequential_wanda": ("Wanda, whole model", _wanda_by_layer),
    "sequential_sparsegpt": ("SparseGPT, whole model", _sparsegpt_by_layer),
}
"""By golden file what the table calls it, and what computes all of its tensors anew."""


@dataclass(frozen=True)
class Tolerance:
    """How near a tensor must come.

    Attributes:
        differing: so many entries may differ; of weights, so many be removed in one alone. None if
            nothing is said of that.
        close: whether values are compared, by the two numbers that follow.
        rtol, atol: the error that is allowed, ``atol + rtol * |expected|``.
        of_largest: `atol` is in parts of the largest size in the tensor.
        agreeing: values are compared only where both or neither have been removed.
    """

    differing: int | None = None
    close: bool = False
    rtol: float = 0.0
    atol: float = 0.0
    of_largest: bool = False
    agreeing: bool = False

    @classmethod
    def parse(cls, stated: str) -> Tolerance:
        """Read the sentence of an index entry.

        Raises:
            ValueError: it says something else than those known.
        """
        found = _STATED.fullmatch(stated)
        if not found or not stated:
            raise ValueError(f"the tolerance {stated!r} cannot be read")
        part = found.groupdict()
        most = "0" if part["exact"] else part["most"]
        return cls(
            None if most is None else int(most),
            part["rtol"] is not None or part["atol"] is not None,
            float(part["rtol"] or 0),
            float(part["atol"] or 0),
            part["largest"] is not None,
            part["agreeing"] is not None,
        )


_STATED = re.compile(
    r"(?P<exact>exact)?"
    r"(?:(?:mask: )?at most (?P<most>\d+) differing entries(?: \(smallest .*\)|; values )?)?"
    r"(?:rtol (?P<rtol>[\d.e-]+)(?:, )?)?"
    r"(?:atol (?P<atol>[\d.e-]+)(?P<largest>\*max(?:\|H\|)?)?)?"
    r"(?P<agreeing> where masks agree)?(?: \(a count\))?"
)


@dataclass(frozen=True)
class Finding:
    """How near a tensor came.

    Attributes:
        entries: of the tensor.
        differing: entries that differ, where the tolerance counts them.
        absolute, relative: the largest errors, where it measures them.
        passed: whether that is within the tolerance.
    """

    entries: int
    differing: int | None
    absolute: float | None
    relative: float | None
    passed: bool

    @classmethod
    def of(cls, found: Tensors, golden: Tensors, name: str, tolerance: Tolerance) -> Finding:
        """Compare one tensor of a case, of which both sides hold all."""
        ours, theirs = found[name].double(), golden[name].double()
        if ours.shape != theirs.shape:
            return cls(theirs.numel(), theirs.numel(), None, None, False)
        alike = _removed(found, name) == _removed(golden, name) if tolerance.agreeing else None
        differing, absolute, relative, passed = None, None, None, True
        if tolerance.differing is not None:
            differing = int(((ours != theirs) if alike is None else ~alike).sum())
            passed = differing <= tolerance.differing
        if tolerance.close:
            scale = float(theirs.abs().max()) if tolerance.of_largest else 1.0
            if alike is not None:
                ours, theirs = ours[alike], theirs[alike]
            error, size = (ours - theirs).abs(), theirs.abs()
            within = error <= tolerance.atol * scale + tolerance.rtol * size
            passed = passed and bool(within.all())
            absolute = float(error.max())
            relative = float((error / size)[size > 0].max())
        return cls(golden[name].numel(), differing, absolute, relative, passed)


def _removed(tensors: Tensors, name: str) -> torch.Tensor:
    """Return the mask that goes with weights: a tensor of its own, or where they are zero."""
    mask = name.replace("weight_", "mask_")
    return tensors[name] == 0 if mask == name else tensors[mask].bool()


@dataclass(frozen=True)
class Row:
    """Golden tensors of one kind, which differ in nothing but the layer.

    Attributes:
        case: the golden file.
        tensors: their names.
        kind, status, tolerance: as in the index.
        findings: one a tensor.
    """

    case: str
    tensors: tuple[str, ...]
    kind: str
    status: str
    tolerance: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every tensor is within its tolerance."""
        return all(finding.passed for finding in self.findings)

    @property
    def pattern(self) -> str:
        """The names as one, such as ``layer{0,1,2}.mlp_score``."""
        layers = [_LAYER.search(name) for name in self.tensors]
        if len(self.tensors) == 1:
            return self.tensors[0]
        numbers = ",".join(layer[2] for layer in layers if layer)
        return _LAYER.sub(rf"\g<1>{{{numbers}}}", self.tensors[0], count=1)

    @property
    def found(self) -> str:
        """The differing entries of all tensors, and the largest errors in any of them."""
        said = []
        counts = [f.differing for f in self.findings if f.differing is not None]
        if counts:
            said.append(f"{sum(counts)} of {sum(f.entries for f in self.findings):,} differ")
        for short in ("absolute", "relative"):
            errors = [e for f in self.findings if (e := getattr(f, short)) is not None]
            if errors:
                said.append(f"{short[:3]} {max(errors):.1e}")
        return ", ".join(said)

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands in the table."""
        status = self.status if self.status == "reference" else f"**{self.status}**"
        return (
            METHODS[self.case][0],
            f"`{self.pattern}`",
            _KINDS.get(self.kind, self.kind),
            status,
            self.tolerance.replace("|", r"\|"),
            self.found,
            "pass" if self.passed else "**FAIL**",
        )


_LAYER = re.compile(r"(layers?\.?)(\d+)")
_KINDS = {"output": "logits", "indices": "units removed"}
HEADS = ("method", "golden case", "what", "status", "tolerance", "found", "verdict")


def rows() -> list[Row]:
    """Compute every tensor anew and return the rows of the table."""
    made = []
    for case, (_, compute) in METHODS.items():
        found, golden = compute(), vectors.case(case)
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, entry in vectors.index(case).items():
            if entry["status"] != "input":
                # The margins that some sentences end in belong to one tensor and decide nothing.
                stated = entry["tolerance"].partition(" (smallest")[0]
                alike = (_LAYER.sub(r"\1", name), entry["kind"], entry["status"], stated)
                groups.setdefault(alike, []).append(name)
        if set(found) != {name for names in groups.values() for name in names}:
            raise ValueError(f"what is computed for {case} is not what the index lists")
        for (_, kind, status, stated), names in groups.items():
            findings = [_finding(found, golden, vectors.index(case)[n], n) for n in names]
            made.append(Row(case, tuple(names), kind, status, stated, tuple(findings)))
    return made


def _finding(found: Tensors, golden: Tensors, entry: Mapping[str, Any], name: str) -> Finding:
    return Finding.of(found, golden, name, Tolerance.parse(entry["tolerance"]))


def markdown(made: Sequence[Row]) -> str:
    """Return the document."""
    counts = {
        status: sum(len(row.tensors) for row in made if row.status == status)
        for status in ("reference", "derived")
    }
    failed = sum(not row.passed for row in made)
    table = [HEADS, tuple("---" for _ in HEADS), *(row.cells for row in made)]
    return _TEXT.format(
        **counts,
        tensors=sum(counts.values()),
        rows=len(made),
        verdict=f"{failed} do not pass" if failed else "all pass",
        table="\n".join(f"| {' | '.join(cells)} |" for cells in table),
    )


_TEXT = """\
# Golden cases: what Prunescope finds

Written by `python -m tests.golden.results`, not by hand. {tensors} golden tensors in {rows} rows,
{verdict}. The expected values of {reference} came out of the authors' own public code
(reference); those of {derived} could not be had from it and are marked **derived**. What the cases
are stands in [README.md](README.md); where each tensor came from, and its tolerance, in
[index.json](index.json).

Braces stand for layers: `layer{{0,1}}.x` is `layer0.x` and `layer1.x`. Each tensor is held to the
tolerance by itself; *found* adds up the differing entries of a row and gives the largest absolute
and relative error in it, of weights where both sides keep or both remove them. Relative errors are
large where values are near zero, as among logits, whose tolerance is absolute. The errors are those
of one machine.

{table}

The derived ones:

* The logits of the dense models are those of a plain transformers forward; Prunescope loads the
  models its own way.
* `attn_score_consecutive_fold`: LLM-Pruner's code gives a key/value head the query heads g, g+4, …
  and removes others; the consecutive ones are those that share it.
* `float_cost`: FLAP's code truncates what a head costs to a whole number; here it does not.
* ShortGPT: no code of the paper's authors was found; the values are those of
  sramshetty/ShortGPT, an independent implementation.
"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    TABLE.write_text(markdown(rows()))

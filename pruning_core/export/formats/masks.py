"""Masks only: the recipe and what stays, to be applied again to the original weights. Small.

Of units their numbers are kept, of single weights one bit each. A method that also changes the
weights that stay cannot be kept this way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pruning_core.errors import PrunescopeError
from pruning_core.export.card import RECIPE
from pruning_core.export.format import Draft, Format, Impossible, Loading, Subject
from pruning_core.export.stored import Stored, write_file
from pruning_core.model.anatomy import Anatomy, Part
from pruning_core.planning.plan import DENSE, Plan, SitePlan, UnitPlan, check_recipe
from pruning_core.planning.thinning import SiteMask, WeightPlan
from pruning_core.progress import Tick
from pruning_core.recipe import Recipe, SiteKey

FILE = "masks.safetensors"
KIND = "prunescope-masks/1"


@dataclass(frozen=True)
class Masks(Draft):
    """Masks to be written."""

    subject: Subject
    tensors: tuple[Stored, ...]
    loading: Loading = Loading.NONE

    @property
    def bytes(self) -> int:
        """See `Draft`."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Draft`."""
        return (
            f"Holds no weights: they come from {self.subject.name}, weights "
            f"{self.subject.fingerprint}.",
        )

    def write(self, folder: Path, largest: int, tick: Tick) -> None:
        """See `Draft`."""
        tick("writing", 0, 1, FILE)
        about = {"kind": KIND, "fingerprint": self.subject.fingerprint}
        write_file(folder / FILE, self.tensors, about)

    def check(self, folder: Path) -> str:
        """See `Draft`."""
        shelf = self.subject.shelf
        again = read_masks(folder, shelf.anatomy, self.subject.fingerprint, shelf.dense)
        if not _same(again, shelf.plan):
            raise PrunescopeError(
                "The proof failed: the masks that were written are not those of the plan. Nothing "
                "was kept."
            )
        return "the plan, site by site"


def draft(subject: Subject) -> Masks:
    """Return the masks of a plan."""
    plan = subject.shelf.plan
    if isinstance(plan, UnitPlan):
        return Masks(subject, tuple(_of_units(plan)))
    assert isinstance(plan, WeightPlan)
    return Masks(subject, tuple(_of_weights(plan, subject.shelf.dense)))


def read_masks(
    folder: Path, anatomy: Anatomy, fingerprint: str, dense: Mapping[str, nn.Parameter]
) -> Plan:
    """Return the plan that masks were written of, to be applied to the original model.

    Args:
        anatomy, fingerprint: of that model.
        dense: its parameters by name.

    Raises:
        PrunescopeError: if the folder holds no masks, or those of another model.
    """
    try:
        recipe = Recipe.from_json((folder / RECIPE).read_text(encoding="utf-8"))
        with safe_open(folder / FILE, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise _unreadable(folder) from error
    if about.get("kind") != KIND:
        raise _unreadable(folder)
    check_recipe(recipe, fingerprint, anatomy)
    found: dict[SiteKey, dict[str, torch.Tensor]] = {key: {} for key in anatomy.by_key}
    try:
        for name, tensor in tensors.items():
            site, _, rest = name.partition("/")
            found.setdefault(SiteKey.parse(site), {})[rest] = tensor
        if f"{next(iter(tensors), '')}".endswith("/bits"):
            return _weight_plan(recipe, anatomy, found, dense)
        return UnitPlan(
            recipe,
            anatomy,
            {key: _site_plan(recipe, anatomy, key, found[key]) for key in anatomy.by_key},
        )
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise _unreadable(folder) from error


def _unreadable(folder: Path) -> PrunescopeError:
    return PrunescopeError(
        f"{folder} holds no masks that can be read: it needs {FILE} and {RECIPE} as an export of "
        "the format 'masks' writes them. Export again."
    )


def _of_units(plan: UnitPlan) -> list[Stored]:
    tensors = []
    for key, site in plan.sites.items():
        if site.signature == DENSE:
            continue
        for part, kept in site.kept.items():
            tensors.append(_ready(f"{key}/{part}", kept.to(torch.int32)))
        if site.weights:
            raise _changed("A repair or training")
        if site.bias is not None:
            tensors.append(_ready(f"{key}/bias", site.bias))
    return tensors


def _of_weights(plan: WeightPlan, dense: Mapping[str, nn.Parameter]) -> list[Stored]:
    tensors = []
    for key, site in plan.sites.items():
        for name, thinned in site.weights.items():
            stays = thinned != 0
            if not torch.equal(thinned, torch.where(stays, dense[name].detach(), 0)):
                raise _changed(f"{plan.recipe.scoring.estimator}, a repair or training")
            bits = np.packbits(stays.cpu().numpy().reshape(-1))
            tensors.append(_ready(f"{key}/{name}/bits", torch.from_numpy(bits)))
    return tensors


def _changed(what: str) -> Impossible:
    return Impossible(
        f"{what} has changed the weights that stay, and masks hold none: choose another format"
    )


def _ready(name: str, tensor: torch.Tensor) -> Stored:
    return Stored(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)


def _site_plan(
    recipe: Recipe, anatomy: Anatomy, key: SiteKey, found: Mapping[str, torch.Tensor]
) -> SitePlan:
    site = anatomy.by_key[key]
    if not found:
        kept = {part: torch.arange(count) for part, count in site.counts.items()}
        width = site.width(site.units, site.heads_per_unit)
        return SitePlan(site, recipe.at(key), width, kept, DENSE)
    kept = {part: found[part].long() for part in site.counts}
    for part, indices in kept.items():
        if (
            indices.numel()
            and not 0 <= int(indices.min()) <= int(indices.max()) < site.counts[part]
        ):
            raise ValueError(part)
    units = kept[Part.KV_HEAD if Part.KV_HEAD in kept else Part.CHANNEL]
    heads = len(kept[Part.QUERY_HEAD]) // max(len(units), 1) if Part.QUERY_HEAD in kept else 0
    content = hashlib.sha256(str(key).encode())
    for name in sorted(found):
        content.update(found[name].numpy().tobytes())
    return SitePlan(
        site,
        recipe.at(key),
        site.width(len(units), heads),
        kept,
        content.hexdigest(),
        found.get("bias"),
    )


def _weight_plan(
    recipe: Recipe,
    anatomy: Anatomy,
    found: Mapping[SiteKey, Mapping[str, torch.Tensor]],
    dense: Mapping[str, nn.Parameter],
) -> WeightPlan:
    sites = {}
    for key, packed in sorted(found.items()):
        if not packed:
            continue
        weights, removed, size = {}, 0, 0
        content = hashlib.sha256(str(key).encode())
        for name, bits in packed.items():
            tensor = name.removesuffix("/bits")
            weight = dense[tensor].detach()
            flat = np.unpackbits(bits.numpy(), count=weight.numel())
            stays = torch.from_numpy(flat).bool().reshape(weight.shape).to(weight.device)
            weights[tensor] = torch.where(stays, weight, 0)
            removed += int((~stays).sum())
            size += weight.numel()
            content.update(bits.numpy().tobytes())
        sites[key] = SiteMask(weights, removed, size, content.hexdigest())
    return WeightPlan(recipe, anatomy, sites)


def _same(first: Plan, second: Plan) -> bool:
    """Whether two plans leave the same, site by site."""
    if isinstance(first, UnitPlan) and isinstance(second, UnitPlan):
        return all(
            _equal(_choices(first.sites[key]), _choices(plan))
            for key, plan in second.sites.items()
            if plan.signature != DENSE
        )
    if isinstance(first, WeightPlan) and isinstance(second, WeightPlan):
        return all(
            _equal(first.sites[key].weights, mask.weights) for key, mask in second.sites.items()
        )
    return False


def _choices(plan: SitePlan) -> dict[str, torch.Tensor | None]:
    return {**{str(part): kept for part, kept in plan.kept.items()}, "bias": plan.bias}


def _equal(
    first: Mapping[str, torch.Tensor | None], second: Mapping[str, torch.Tensor | None]
) -> bool:
    if set(first) != set(second):
        return False
    for name, value in second.items():
        other = first[name]
        if value is None or other is None:
            if value is not other:
                return False
        elif not torch.equal(other, value):
            return False
    return True


FORMAT = Format(
    "masks",
    "recipe and masks, to be applied to the original weights",
    ("Prunescope, with the original model",),
    draft,
)

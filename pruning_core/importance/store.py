"""Importance maps on disk: one safetensors file, its description in the header. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pruning_core.errors import PrunescopeError
from pruning_core.files import unwritable, written_whole
from pruning_core.importance.map import Fusion, ImportanceMap, SiteFusion, SiteScores, Tiles
from pruning_core.recipe import Scoring, SiteKey

FORMAT = "prunescope-importance/1"


def save_map(scores: ImportanceMap, path: Path) -> None:
    """Write a map; a crash leaves either the old file or none.

    Raises:
        PrunescopeError: if the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    _put(tensors, "sites", scores.sites)
    for name, tiles in scores.tiles.items():
        tensors[f"tiles/{name}/mean"] = tiles.mean.contiguous()
        tensors[f"tiles/{name}/peak"] = tiles.peak.contiguous()
    if scores.fusion:
        tensors["fusion/curve"] = torch.tensor(scores.fusion.curve, dtype=torch.float64)
        for field in ("fine", "coarse", "attention"):
            part = {key: getattr(site, field) for key, site in scores.fusion.sites.items()}
            _put(tensors, f"fusion/{field}", part)
    if scores.layers is not None:
        tensors["layers"] = scores.layers
    _put(tensors, "comparable", scores.comparable)
    header = {
        "format": FORMAT,
        "fingerprint": scores.fingerprint,
        "scoring": json.dumps(scores.scoring.as_dict()),
        "shapes": json.dumps({name: tiles.shape for name, tiles in scores.tiles.items()}),
        "seconds": str(scores.seconds),
    }
    # Equal tensors may share memory (the coarse tiles' mean and peak); the format forbids it.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        with written_whole(path) as partial:
            save_file(tensors, partial, header)
    except SafetensorError as error:
        raise unwritable(path, error) from error


def load_map(path: Path) -> ImportanceMap:
    """Read a map.

    Raises:
        PrunescopeError: if the file is missing, damaged or of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    if header.get("format") != FORMAT:
        raise PrunescopeError(f"{path} is not an importance map of this version of Prunescope.")
    try:
        return _map_from(header, tensors)
    except (PrunescopeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> PrunescopeError:
    return PrunescopeError(
        f"{path} cannot be read as an importance map: {type(error).__name__}, {error}. Make it "
        "again with `python -m pruning_core importance MODEL --out FILE`."
    )


def _map_from(header: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> ImportanceMap:
    """Put a map together; raises whatever a damaged file makes it raise."""
    shapes = json.loads(header["shapes"])
    sites = _take(tensors, "sites")
    fusion = None
    if "fusion/curve" in tensors:
        parts = [_take(tensors, f"fusion/{field}") for field in ("fine", "coarse", "attention")]
        fusion = Fusion(
            tuple(tensors["fusion/curve"].tolist()),
            {key: SiteFusion(*(part[key] for part in parts)) for key in sites},
        )
    return ImportanceMap(
        fingerprint=header["fingerprint"],
        scoring=Scoring.from_dict(json.loads(header["scoring"])),
        sites=sites,
        tiles={
            name: Tiles(tensors[f"tiles/{name}/mean"], tensors[f"tiles/{name}/peak"], tuple(shape))
            for name, shape in shapes.items()
        },
        fusion=fusion,
        comparable=_take(tensors, "comparable"),
        layers=tensors.get("layers"),
        seconds=float(header["seconds"]),
    )


def _put(
    tensors: dict[str, torch.Tensor], prefix: str, sites: Mapping[SiteKey, SiteScores]
) -> None:
    for key, scores in sites.items():
        tensors[f"{prefix}/{key}/units"] = scores.units.contiguous()
        if scores.heads is not None:
            tensors[f"{prefix}/{key}/heads"] = scores.heads.contiguous()


def _take(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[SiteKey, SiteScores]:
    units = {
        SiteKey.parse(name.split("/")[-2]): name
        for name in tensors
        if name.startswith(f"{prefix}/") and name.endswith("/units")
    }
    return {
        key: SiteScores(tensors[name], tensors.get(name.replace("/units", "/heads")))
        for key, name in sorted(units.items())
    }

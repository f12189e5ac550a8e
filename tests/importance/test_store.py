"""Importance maps on disk: what is read is what was written, or a sentence."""

from __future__ import annotations

import errno
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pruning_core.errors import PrunescopeError
from pruning_core.importance import store
from pruning_core.importance.map import Fusion, ImportanceMap, SiteFusion, SiteScores, Tiles
from pruning_core.importance.store import load_map, save_map
from pruning_core.recipe import Calibration, Scoring, SiteKey, SiteKind

KEYS = [SiteKey(layer, kind) for layer in (0, 1, 10) for kind in SiteKind]


def site_scores(key: SiteKey) -> SiteScores:
    heads = torch.rand(6) if key.kind is SiteKind.ATTENTION else None
    return SiteScores(torch.rand(2 if heads is not None else 12), heads)


def make_map(*, fusion: bool = True) -> ImportanceMap:
    shared = torch.rand(4, 5)
    return ImportanceMap(
        fingerprint="0123abcd",
        scoring=Scoring("hybrid", (("steps", 3),), Calibration("file:a b/ü.txt", 2, 64, 7)),
        sites={key: site_scores(key) for key in KEYS},
        tiles={
            "model.layers.0.mlp.up_proj.weight": Tiles(torch.rand(4, 5), torch.rand(4, 5), (8, 15)),
            # One tensor in two places, and not contiguous, as the coarse estimator gives it.
            "model.layers.1.mlp.up_proj.weight": Tiles(shared.T, shared.T, (10, 12)),
        },
        fusion=Fusion(
            (1 / 3, 0.1, 2e-9),
            {key: SiteFusion(*(site_scores(key) for _ in range(3))) for key in KEYS},
        )
        if fusion
        else None,
        comparable={key: site_scores(key) for key in KEYS[:2]},
        layers=torch.rand(11),
        seconds=1 / 3,
    )


def same_sites(one: dict[SiteKey, SiteScores], other: dict[SiteKey, SiteScores]) -> bool:
    return list(one) == list(other) and all(
        torch.equal(one[key].units, other[key].units)
        and (one[key].heads is None) == (other[key].heads is None)
        and (one[key].heads is None or torch.equal(one[key].heads, other[key].heads))
        for key in one
    )


def same(one: ImportanceMap, other: ImportanceMap) -> bool:
    if (one.fusion is None) != (other.fusion is None):
        return False
    if not same_sites(one.comparable, other.comparable):
        return False
    if (one.layers is None) != (other.layers is None):
        return False
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    if one.layers is not None and other.layers is not None:
        pairs.append((one.layers, other.layers))
    if not all(torch.equal(a, b) for a, b in pairs):
        return False
    if one.fusion is not None and other.fusion is not None:
        if one.fusion.curve != other.fusion.curve:
            return False
        for field in ("fine", "coarse", "attention"):
            parts = [
                {k: getattr(s, field) for k, s in m.fusion.sites.items()} for m in (one, other)
            ]
            if not same_sites(*parts):
                return False
    return (
        (one.fingerprint, one.scoring, one.seconds)
        == (other.fingerprint, other.scoring, other.seconds)
        and same_sites(dict(one.sites), dict(other.sites))
        and set(one.tiles) == set(other.tiles)
        and all(
            torch.equal(tiles.mean, other.tiles[name].mean)
            and torch.equal(tiles.peak, other.tiles[name].peak)
            and tiles.shape == other.tiles[name].shape
            for name, tiles in one.tiles.items()
        )
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "maps" / "one.safetensors"


@pytest.mark.parametrize("fusion", [True, False])
def test_round_trip(path: Path, fusion: bool) -> None:
    before = make_map(fusion=fusion)
    save_map(before, path)
    assert same(load_map(path), before)
    assert os.listdir(path.parent) == [path.name]


def test_a_fusion_that_did_not_learn_comes_back(path: Path) -> None:
    before = make_map()
    assert before.fusion is not None
    before = replace(before, fusion=Fusion((), before.fusion.sites))
    save_map(before, path)
    assert same(load_map(path), before)


def test_a_map_of_scores_alone(path: Path) -> None:
    before = ImportanceMap("f", Scoring("random"), {KEYS[0]: site_scores(KEYS[0])})
    save_map(before, path)
    assert same(load_map(path), before)


def test_writing_again_replaces(path: Path) -> None:
    save_map(make_map(), path)
    second = make_map(fusion=False)
    save_map(second, path)
    assert same(load_map(path), second)


def test_a_missing_file_is_a_sentence(path: Path) -> None:
    with pytest.raises(PrunescopeError, match=r"one\.safetensors cannot be read.*Make it again"):
        load_map(path)


def test_a_folder_is_a_sentence(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(PrunescopeError):
        load_map(path)
    with pytest.raises(PrunescopeError):
        save_map(make_map(), path)
    assert os.listdir(path.parent) == [path.name]


def test_a_truncated_file_is_a_sentence(path: Path) -> None:
    save_map(make_map(), path)
    whole = path.read_bytes()
    for length in {0, 4, 8, 9, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(PrunescopeError):
            load_map(path)


def test_a_damaged_header_is_read_right_or_a_sentence(path: Path) -> None:
    save_map(make_map(), path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draw.randrange(8, header)] = draw.randrange(32, 127)
        path.write_bytes(damaged)
        try:
            load_map(path)
        except PrunescopeError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), bytes(1000)])
def test_another_kind_of_file_is_a_sentence(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(PrunescopeError):
        load_map(path)


@pytest.mark.parametrize("header", [None, {}, {"format": "pt"}, {"format": "prunescope-x/9"}])
def test_safetensors_of_another_format_are_a_sentence(
    path: Path, header: dict[str, str] | None
) -> None:
    path.parent.mkdir()
    save_file({"weight": torch.ones(2)}, path, header)
    with pytest.raises(PrunescopeError, match="not an importance map"):
        load_map(path)


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": None},
        {"shapes": "{"},
        {"shapes": "[1]"},
        {"shapes": '{"model.layers.9.w": [1, 2]}'},
        {"shapes": '{"model.layers.0.mlp.up_proj.weight": 3}'},
        {"scoring": None},
        {"scoring": "[]"},
        {"scoring": '{"estimator": ""}'},
        {"fingerprint": None},
        {"seconds": "long"},
    ],
)
def test_a_header_that_lies_is_a_sentence(path: Path, change: dict[str, str | None]) -> None:
    save_map(make_map(), path)
    with safe_open(path, "pt") as file:
        header = {**file.metadata(), **change}
    save_file(load_file(path), path, {k: v for k, v in header.items() if v is not None})
    with pytest.raises(PrunescopeError, match=r"one\.safetensors"):
        load_map(path)


@pytest.mark.parametrize(
    "missing",
    [
        "tiles/model.layers.0.mlp.up_proj.weight/peak",
        "fusion/attention/1.mlp/units",
        "fusion/fine/10.mlp/units",
    ],
)
def test_a_missing_tensor_is_a_sentence(path: Path, missing: str) -> None:
    save_map(make_map(), path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    del tensors[missing]
    save_file(tensors, path, header)
    with pytest.raises(PrunescopeError, match=r"one\.safetensors"):
        load_map(path)


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_is_a_sentence_and_keeps_what_there_was(
    path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_map()
    if exists:
        save_map(before, path)

    def full(_tensors: object, target: Path, _header: object) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(PrunescopeError, match=r"No space left.*Free some space"):
        save_map(make_map(), path)
    assert os.listdir(path.parent) == ([path.name] if exists else [])
    if exists:
        assert same(load_map(path), before)


def test_a_place_that_can_not_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file" / "map", tmp_path / ("x" * 300)):
        with pytest.raises(PrunescopeError, match="could not be written"):
            save_map(make_map(), place)

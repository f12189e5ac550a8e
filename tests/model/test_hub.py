"""The hub, played by a server on this machine, and its cache without any hub."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.model import hub
from pruning_core.model.loading import load
from pruning_core.model.memory import preflight
from pruning_core.model.reference import ModelRef, Source
from pruning_core.progress import Cancelled
from tests.model import tiny_checkpoints as tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A hub with one repository, ``org/tiny``, and a note of what was asked of it."""

    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)
    pause: float = 0.0  # seconds that every answer rests half-way


def handler(served: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                half = len(body) // 2
                self.wfile.write(body[:half])
                self.wfile.flush()
                time.sleep(served.pause if half else 0)
                self.wfile.write(body[half:])

        def do_HEAD(self) -> None:  # noqa: N802 (http.server's name)
            self.do_GET()

        def do_GET(self) -> None:  # noqa: N802
            served.asked.append(f"{self.command} {self.path}")
            path = self.path.split("?")[0]
            if "org/gated" in path:
                return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Ask first.")
            if "org/tiny" not in path:
                return self.answer(401, X_Error_Code="RepoNotFound")
            if "/revision/" in path:
                if not path.endswith(("/main", "/v1")):
                    return self.answer(404, X_Error_Code="RevisionNotFound")
                return self.answer(200, json.dumps({"id": "org/tiny", "sha": COMMIT}).encode())
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
                    for name, data in served.files.items()
                ]
                return self.answer(200, json.dumps(tree).encode())
            data = served.files[path.rpartition("/")[2]]
            return self.answer(200, data, ETag=f'"{etag(data)}"', X_Repo_Commit=COMMIT)

    return Handler


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def point_at(monkeypatch: pytest.MonkeyPatch, cache: Path, endpoint: str) -> None:
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tiny.save(tmp_path / "published")
    content = Hub({path.name: path.read_bytes() for path in folder.iterdir()})
    content.files["pytorch_model.bin"] = b"pickled"
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(content))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    point_at(monkeypatch, tmp_path / "cache", f"http://127.0.0.1:{server.server_port}")
    yield content
    server.shutdown()
    server.server_close()


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No hub anywhere: nobody listens on port 9. Returns the hub cache's folder."""
    point_at(monkeypatch, tmp_path / "cache", "http://127.0.0.1:9")
    return tmp_path / "cache"


def cached(cache: Path, name: str, *, branches: dict[str, str]) -> None:
    """Lay out a repository the way huggingface_hub keeps it, a snapshot for each branch."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for seed, (branch, commit) in enumerate(branches.items()):
        (repository / "refs" / branch).write_text(commit)
        tiny.save(repository / "snapshots" / commit, rms_norm_eps=1e-6 * (seed + 1))


def fetched(served: Hub) -> set[str]:
    return {line.rpartition("/")[2] for line in served.asked if line.startswith("GET /org/tiny/")}


def test_a_model_is_fetched_and_loaded(served: Hub) -> None:
    loaded = load("org/tiny@v1", dtype="float32")
    assert loaded.ref == ModelRef(Source.HUB, "org/tiny", "v1")
    assert loaded.model.num_parameters() == tiny.model().num_parameters()
    assert "pytorch_model.bin" not in fetched(served)


def test_a_preflight_fetches_no_weights(served: Hub) -> None:
    check = preflight("org/tiny", torch.device("cpu"), torch.bfloat16)
    assert check.parameters == tiny.model().num_parameters()
    assert "config.json" in fetched(served)
    assert "model.safetensors" not in fetched(served)


def test_what_was_fetched_loads_when_the_hub_is_gone(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load("org/tiny")
    point_at(monkeypatch, tmp_path / "cache", "http://127.0.0.1:9")
    assert load("org/tiny").fingerprint == first.fingerprint
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load("org/tiny").fingerprint == first.fingerprint


def test_a_cached_revision_is_told_from_another(
    unreachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(unreachable, "org/two", branches={"main": "a" * 40, "v1": "b" * 40})
    assert load("org/two").model.config.rms_norm_eps == 1e-6
    assert load("org/two@v1").model.config.rms_norm_eps == 2e-6
    # Asked for a commit, huggingface_hub tries an unreachable hub for half a minute first.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load(f"org/two@{'b' * 40}").model.config.rms_norm_eps == 2e-6


def test_a_hub_that_can_not_be_reached_is_told(unreachable: Path) -> None:
    with pytest.raises(PrunescopeError, match="not wholly, on this disk, and the hub can't be re"):
        load("org/tiny")


def test_a_cached_config_without_weights_is_told(
    unreachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cached(unreachable, "org/part", branches={"main": "a" * 40})
    next(unreachable.rglob("model.safetensors")).unlink()
    with pytest.raises(PrunescopeError, match="no safetensors weights"):
        load("org/part")


def test_an_interrupted_download_is_told_when_the_hub_is_gone(
    served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fetch_configuration(ModelRef.parse("org/tiny"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PrunescopeError, match="not, or not wholly, on this disk"):
        load("org/tiny")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/unknown", "The hub has no model 'org/unknown', or it is private"),
        ("org/gated", "is gated.*hf auth login"),
        ("org/tiny@v2", "has no revision 'v2'"),
    ],
)
def test_what_the_hub_refuses_is_told(served: Hub, name: str, said: str) -> None:
    with pytest.raises(PrunescopeError, match=said):
        load(name)


def test_a_repository_without_a_config_is_told(served: Hub) -> None:
    del served.files["config.json"]
    with pytest.raises(PrunescopeError, match="has no config.json on the hub"):
        load("org/tiny")


def test_a_repository_with_pickled_weights_only_is_told(served: Hub) -> None:
    del served.files["model.safetensors"]
    with pytest.raises(PrunescopeError, match=r"unpickling can run any code.*save_pretrained"):
        load("org/tiny")
    assert "pytorch_model.bin" not in fetched(served)


def test_a_download_tells_its_bytes(served: Hub) -> None:
    told: list[tuple[str, int, int]] = []
    folder = hub.fetch_configuration(ModelRef.parse("org/tiny"))
    served.files["model.safetensors"] += bytes(40_000_000)
    served.pause = 1.0

    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        told.append((stage, done, total))

    hub.fetch_weights(ModelRef.parse("org/tiny"), folder, tick)
    size = len(served.files["model.safetensors"])
    assert any(
        stage == "fetching the weights" and 0 < done < total == size for stage, done, total in told
    )


def test_a_download_can_be_cancelled_at_once(served: Hub) -> None:
    folder = hub.fetch_configuration(ModelRef.parse("org/tiny"))
    served.pause = 3.0
    started = time.monotonic()

    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        if time.monotonic() - started > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        hub.fetch_weights(ModelRef.parse("org/tiny"), folder, tick)
    assert time.monotonic() - started < 1.5
    assert not (folder / "model.safetensors").exists()


def test_the_weights_are_of_the_configs_commit(served: Hub) -> None:
    ref = ModelRef.parse("org/tiny")
    hub.fetch_weights(ref, hub.fetch_configuration(ref))
    resolved = [line for line in served.asked if line.endswith("/model.safetensors")]
    assert resolved
    assert all(f"/resolve/{COMMIT}/" in line for line in resolved)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "The disk that holds .* is full"),
        (PermissionError(13, "Permission denied"), "can't be written: Permission denied"),
    ],
)
def test_a_cache_that_takes_nothing_is_told_with_the_hubs_own_variable(
    served: Hub, monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    def full(*args: object, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(PrunescopeError, match=said) as refused:
        load("org/tiny")
    assert "or set HF_HOME to a folder on another disk" in str(refused.value)
    assert "PRUNESCOPE_CACHE" not in str(refused.value)


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    (tmp_path / hub.INDEX).write_text('{"weight_map": []}')
    with pytest.raises(PrunescopeError, match="does not say which files"):
        hub.weight_files(tmp_path)

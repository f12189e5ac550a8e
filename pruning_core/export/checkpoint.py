"""A folder that `from_pretrained` opens: config, weights, generation config. Never pickle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from pruning_core.export.classes import ship_code
from pruning_core.export.format import Draft, Loading, Subject
from pruning_core.export.stored import Stored, write_model
from pruning_core.progress import Tick


@dataclass(frozen=True)
class Checkpoint(Draft):
    """A checkpoint to be written.

    Attributes:
        subject: what it is of.
        config: describes its tensors.
        architecture: the class it is for.
        tensors: under the names that checkpoints have.
        loading: how it is opened.
        told: what a user should know.
        ship: writes code that goes along, and names it in the config.
    """

    subject: Subject
    config: PreTrainedConfig
    architecture: str
    tensors: Sequence[Stored]
    loading: Loading
    told: tuple[str, ...] = ()
    ship: Callable[[PreTrainedConfig, Path], None] | None = None

    @property
    def bytes(self) -> int:
        """See `Draft`."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Draft`."""
        return self.told

    def write(self, folder: Path, largest: int, tick: Tick) -> None:
        """See `Draft`."""
        write_model(folder, self.tensors, largest, tick)
        generation = self.subject.shelf.model.generation_config
        if generation is not None:
            # Not save_pretrained, which refuses what models were published with.
            generation.to_json_file(folder / "generation_config.json")

    def finish(self, folder: Path) -> None:
        """See `Draft`."""
        model = self.subject.shelf.model
        self.config.architectures = [self.architecture]
        self.config.dtype = str(model.dtype).removeprefix("torch.")
        if self.ship is not None:
            self.ship(self.config, folder)
        else:
            ship_code(model, self.config, folder)
        self.config.save_pretrained(folder)

"""The recipes that one tab has worked on, and the way back and forth between them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pruning_core.recipe import Recipe

DEPTH = 200


@dataclass
class Undo:
    """The recipes of one model, the present one last among those that are done."""

    done: list[Recipe]
    undone: list[Recipe] = field(default_factory=list)

    @property
    def present(self) -> Recipe:
        """The recipe that is worked on."""
        return self.done[-1]

    @property
    def can_undo(self) -> bool:
        """Whether there is a recipe before."""
        return len(self.done) > 1

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone recipe."""
        return bool(self.undone)

    def change(self, new: Recipe) -> None:
        """Make another recipe the present one; undo leads back."""
        if new != self.present:
            self.done.append(new)
            self.undone.clear()
            del self.done[:-DEPTH]

    def replace(self, new: Recipe) -> None:
        """Let another recipe stand where the present one stands."""
        self.done[-1] = new

    def undo(self) -> None:
        """Go back to the recipe before, if there is one."""
        if self.can_undo:
            self.undone.append(self.done.pop())

    def redo(self) -> None:
        """Take back an undo, if there is one."""
        if self.undone:
            self.done.append(self.undone.pop())

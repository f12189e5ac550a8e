"""How a number is measured, by name.

Most protocols follow the field's common form: the corpus is tokenised once, cut into consecutive
windows that do not overlap, the tail is dropped, the first token of a window is not scored. The
sliding ones lay windows over each other instead, so that every token is predicted from a context,
and drop no tail. Numbers of different protocols are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pruning_core.calibration.windows import (
    Bos,
    Span,
    measurement_windows,
    sliding_spans,
    whole_spans,
)
from pruning_core.errors import unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pruning_core.calibration.text import Text


@dataclass(frozen=True)
class Protocol:
    """A way to measure.

    Attributes:
        name: as on the command line.
        title: as on screen.
        corpus: the corpus whose measurement split is read.
        window: tokens in a window.
        limit: at most this many windows, from the start; None for all.
        bos: where the begin-of-text token stands.
        stride: tokens from one window's start to the next one's; None where they do not overlap.
        about: who measures so, in a sentence.
    """

    name: str
    title: str
    corpus: str
    window: int
    limit: int | None = None
    bos: Bos = Bos.FAMILY
    stride: int | None = None
    about: str = ""

    def spans(self, text: Text, tokenizer: PreTrainedTokenizerBase) -> tuple[Span, ...]:
        """Return what of a text goes through the model, and which tokens of it are scored.

        Raises:
            PrunescopeError: if the text is too short, or the protocol's numbers go wrong together.
        """
        if self.stride is not None:
            return sliding_spans(
                text,
                tokenizer,
                length=self.window,
                stride=self.stride,
                limit=self.limit,
                bos=self.bos,
            )
        windows = measurement_windows(
            text, tokenizer, length=self.window, limit=self.limit, bos=self.bos
        )
        return whole_spans(windows)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("probe", "Probe: embedded text, 8 windows of 256", "embedded", 256, 8),
        Protocol("probe-wikitext2", "Probe: WikiText-2, 8 windows of 256", "wikitext2", 256, 8),
        Protocol("probe-c4", "Probe: C4, 8 windows of 256", "c4", 256, 8),
        Protocol(
            "embedded",
            "Embedded text, window 512",
            "embedded",
            512,
            about="Needs no network; nobody else's numbers compare with it.",
        ),
        Protocol(
            "wikitext2",
            "WikiText-2 raw test, window 2048",
            "wikitext2",
            2048,
            about="The Wanda family's: SparseGPT, Wanda, OWL, RIA, DaSS; rows joined by blank "
            "lines.",
        ),
        Protocol(
            "wikitext2-128",
            "WikiText-2 raw test, window 128",
            "wikitext2",
            128,
            about="LLM-Pruner's and FLAP's: the same text in short windows, so higher numbers.",
        ),
        Protocol(
            "c4",
            "C4, window 2048",
            "c4",
            2048,
            about="The Wanda family's second: web pages joined by a space.",
        ),
        Protocol(
            "ptb",
            "Penn Treebank test, window 2048",
            "ptb",
            2048,
            about="SparseGPT's and DaSS's: sentences of the test split joined by a space.",
        ),
        Protocol(
            "ptb-128",
            "Penn Treebank validation, window 128",
            "ptb-validation",
            128,
            about="LLM-Pruner's and FLAP's: the validation split, joined by blank lines.",
        ),
    )
}
"""The protocols of windows that do not overlap."""

SLIDING = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "wikitext2-sliding",
            "WikiText-2 raw test, window 2048, stride 512",
            "wikitext2",
            2048,
            stride=512,
            about="Every token is predicted from 1536 tokens or more, but for the text's first "
            "window.",
        ),
        Protocol(
            "embedded-sliding",
            "Embedded text, window 512, stride 256",
            "embedded",
            512,
            stride=256,
            about="The sliding form without a network.",
        ),
    )
}
"""The protocols of windows that overlap; `Protocol.spans` lays them."""


def protocol(name: str) -> Protocol:
    """Return a protocol whose windows do not overlap, by name.

    Raises:
        PrunescopeError: if there is none of that name.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def any_protocol(name: str) -> Protocol:
    """Return a protocol by name, sliding ones too.

    Raises:
        PrunescopeError: if there is none of that name.
    """
    known = PROTOCOLS | SLIDING
    if name not in known:
        raise unknown_name("protocol", name, known)
    return known[name]

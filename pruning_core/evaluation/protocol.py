"""How a number is measured, by name.

All protocols follow the field's common form: the corpus is tokenised once, cut into consecutive
windows that do not overlap, the tail is dropped, the first token of a window is not scored. Numbers
of different protocols are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass

from pruning_core.errors import unknown_name


@dataclass(frozen=True)
class Protocol:
    """A way to measure.

    Attributes:
        name: as on the command line.
        title: as on screen.
        corpus: the corpus whose measurement split is read.
        window: tokens in a window.
        limit: at most this many windows, from the start; None for all.
        bos: whether every window begins with the tokenizer's BOS token.
    """

    name: str
    title: str
    corpus: str
    window: int
    limit: int | None = None
    bos: bool = False


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("probe", "Probe: embedded text, 8 windows of 256", "embedded", 256, 8),
        Protocol("probe-wikitext2", "Probe: WikiText-2, 8 windows of 256", "wikitext2", 256, 8),
        Protocol("probe-c4", "Probe: C4, 8 windows of 256", "c4", 256, 8),
        Protocol("embedded", "Embedded text, window 512", "embedded", 512),
        Protocol("wikitext2", "WikiText-2 raw test, window 2048", "wikitext2", 2048),
        Protocol("wikitext2-128", "WikiText-2 raw test, window 128", "wikitext2", 128),
        Protocol("c4", "C4, window 2048", "c4", 2048),
    )
}


def protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        PrunescopeError: if there is none of that name.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]

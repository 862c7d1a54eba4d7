"""Stacks → a flame graph as a still SVG: readable in Markdown, without scripts.

Decided here: what is drawn. Workers are drawn as one; imports as one block; frames of the
interpreter, of multiprocessing and of the benchmark are left out, and so is what is deeper than
some levels or narrower than a hair. Frames of the product are warm, those of libraries cool.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape

IMPORTS = "imports"
MAIN, WORKERS = "main process", "worker processes"
_FRAME = re.compile(r"(.+) \((.+)\)")
_IMPORTING = "_find_and_load (<frozen importlib._bootstrap>)"
_LEFT_OUT = re.compile(r"<|benchmarks/|multiprocessing/|concurrent/|runpy|threading|contextlib")
_WIDTH, _ROW, _DEPTH, _CHARACTER = 1600, 20, 14, 6.7
_OWN, _LIBRARY, _QUIET = "#f4a259", "#8cb9d9", "#d5d5d5"


@dataclass(slots=True)
class _Node:
    samples: int = 0
    below: dict[str, "_Node"] = field(default_factory=dict)


def stacks(raw: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yields each stack of py-spy's raw format, cleaned: process first, then frames."""
    for line in raw.splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        process = WORKERS if sum(each.startswith("process ") for each in frames) > 1 else MAIN
        importing = _IMPORTING in frames
        if importing:
            frames = frames[: frames.index(_IMPORTING)]
        # a process's command line may be cut by `;` too: its pieces are no frames
        kept = [each for each in frames if (f := _FRAME.fullmatch(each)) and _shown(f)]
        yield (process, *kept, *([IMPORTS] if importing else ())), int(samples)


def _shown(frame: re.Match[str]) -> bool:
    return not frame[0].startswith("process ") and not _LEFT_OUT.match(frame[2])


def draw(cleaned: Iterable[tuple[tuple[str, ...], int]], title: str) -> str:
    """Returns the SVG."""
    counted: Counter[tuple[str, ...]] = Counter()
    for frames, samples in cleaned:
        counted[frames] += samples
    root = _Node()
    for frames, samples in counted.items():
        node = root
        node.samples += samples
        for frame in frames[:_DEPTH]:
            node = node.below.setdefault(frame, _Node())
            node.samples += samples
    boxes = list(_boxes(root, root.samples, 0.0, 0))
    depth = max((level for level, *_ in boxes), default=0) + 1
    height = (depth + 2) * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        'font-family="monospace" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="15" font-size="13">{escape(title)}</text>',
        *(_box(*box) for box in boxes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _boxes(node: _Node, whole: int, left: float, level: int) -> Iterator[tuple]:
    """Yields level, left, width, name and share of each block below a node, widest first."""
    for name, child in sorted(node.below.items(), key=lambda item: -item[1].samples):
        width = child.samples / whole * _WIDTH
        if width >= 1:
            yield level, left, width, name, child.samples / whole
            yield from _boxes(child, whole, left, level + 1)
        left += width


def _box(level: int, left: float, width: float, name: str, share: float) -> str:
    quiet = name in (IMPORTS, MAIN, WORKERS)
    colour = _QUIET if quiet else _OWN if "dicom_assets/" in name else _LIBRARY
    top = (level + 1.5) * _ROW
    label = name.replace("dicom_assets/", "") + f" {share:.1%}"
    room = int((width - 6) / _CHARACTER)
    text = label if len(label) <= room else f"{label[: room - 1]}…" if room > 3 else ""
    return (
        f'<g><title>{escape(label)}</title><rect x="{left:.1f}" y="{top:.0f}" '
        f'width="{max(width - 0.5, 0.5):.1f}" height="{_ROW - 1}" fill="{colour}"/>'
        f'<text x="{left + 3:.1f}" y="{top + 13.5:.0f}">{escape(text)}</text></g>'
    )

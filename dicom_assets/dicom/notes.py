"""What is said of elements that could not be read as they should.

Decided here: how a note reads, and that a hostile file does not make more of them than anybody
reads. Not decided here: what is worth a note (`elements`, `values`).
"""

from collections.abc import Iterable

MOST_NOTES = 1000
"""Most different notes of a file; one more says that there are others."""


class Notes(dict[str, None]):
    """`TAG reason`, each once, in the order in which they came."""

    def add(self, path: Iterable[int], reason: str) -> None:
        """Adds a note.

        Args:
            path: Tags of the enclosing sequences, and of the element.
            reason: What is the matter, without the value.
        """
        if len(self) > MOST_NOTES:
            return
        where = ".".join(f"{tag:08X}" for tag in path)
        note = f"{where} {reason}"
        if len(self) == MOST_NOTES and note not in self:
            note = f"{where} is the first element of which there are notes that are left out"
        self[note] = None

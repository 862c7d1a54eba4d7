"""A JSON document → the resources in it, one after the other, as they are written there.

Decided here: where in a document resources stand. It is one resource, an array or a Bundle of them,
however these are nested, or several of such, one after the other. One resource is in memory at a
time, whatever the document holds. A Bundle is known by its `resourceType` if that comes before its
entries, as it does wherever FHIR is written; one that says it later counts as one resource. Not
decided here: whether what stands there is JSON, and a resource (`ndjson`).
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

MAX_RESOURCE_BYTES = 256 << 20
"""Longest resource, since one has to be in memory."""

_CHUNK = 1 << 20
_DEEPEST = 16
_BUNDLE_HEAD = 1 << 16
"""So far into a document its `resourceType` is looked for."""
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# a quote by itself begins a string that ends behind what has been read so far
_TOKEN = re.compile(_STRING + rb'|[{}\[\]"]', re.DOTALL)
_BLANKS = re.compile(rb"(" + _STRING + rb")|[ \t\r\n]+", re.DOTALL)
_SCALAR = re.compile(rb'[^ \t\r\n{}\[\],:"]+')
_SOMETHING = re.compile(rb"[^ \t\r\n]")
_OPENING = re.compile(rb"\{\s*")
_MEMBER_BEFORE = re.compile(
    rb'(?!"entry"|"resourceType")' + _STRING + rb"\s*:\s*(?:" + _STRING + rb"|[\w.+-]+)\s*,\s*",
    re.DOTALL | re.ASCII,
)
_IS_BUNDLE = re.compile(rb'"resourceType"\s*:\s*"Bundle"')


class BrokenDocumentError(ValueError):
    """What is there is no JSON document, or ends too early.

    Attributes:
        rest: The bytes from where it goes wrong, as far as they have been read.
    """

    def __init__(self, rest: bytes) -> None:
        """Keeps the rest."""
        super().__init__("no JSON document")
        self.rest = rest


def starts_several(text: bytes) -> bool:
    """Says whether a text begins with an array or a Bundle."""
    return text[:1] == b"[" or _bundle_begins(text, 0)


def _bundle_begins(text: bytes, at: int) -> bool:
    # one member at a time: in one pattern each of them would be remembered to go back to
    until, found = at + _BUNDLE_HEAD, _OPENING.match(text, at)
    if found is None:
        return False
    while member := _MEMBER_BEFORE.match(text, found.end(), until):
        found = member
    return _IS_BUNDLE.match(text, found.end(), until) is not None


def on_one_line(text: bytes) -> bytes:
    """Returns JSON without blanks between its parts; what these say, and how, stays."""
    return _BLANKS.sub(rb"\1", text)


class Document:
    """A document that is being read."""

    def __init__(self, stream: BinaryIO, *, bundles_are_resources: bool = False) -> None:
        """Reads on from where the stream stands.

        Args:
            stream: JSON.
            bundles_are_resources: Whether a Bundle is itself what is looked for.
        """
        self._stream, self._bundles_are_resources = stream, bundles_are_resources
        self._buffer, self._at = b"", 0

    def texts(self) -> Iterator[bytes]:
        """Yields each resource, or what stands in the place of one.

        Raises:
            BrokenDocumentError: It is no document from there on, or a resource is too long.
        """
        while self._next():
            yield from self._values(0)

    def _values(self, depth: int) -> Iterator[bytes]:
        first = self._next()
        if first == b"[":
            yield from self._array(depth)
        elif first == b"{" and not self._bundles_are_resources and self._is_bundle():
            yield from self._bundle(depth)
        else:
            yield self._value()

    def _array(self, depth: int) -> Iterator[bytes]:
        if depth == _DEEPEST:
            raise self._broken()
        self._at += 1
        if self._next() == b"]":
            self._at += 1
            return
        while True:
            yield from self._values(depth + 1)
            if self._take(b",]") == b"]":
                return

    def _bundle(self, depth: int) -> Iterator[bytes]:
        for name in self._members():
            if name == b'"entry"' and self._next() == b"[":
                yield from self._entries(depth)
            else:
                self._value()

    def _entries(self, depth: int) -> Iterator[bytes]:
        if depth == _DEEPEST:
            raise self._broken()
        self._at += 1
        if self._next() == b"]":
            self._at += 1
            return
        while True:
            if self._next() != b"{":
                yield self._value()
            else:
                has_resource = False
                for name in self._members():
                    if name == b'"resource"':
                        has_resource = True
                        yield from self._values(depth + 1)
                    else:
                        self._value()
                if not has_resource:
                    yield b"null"
            if self._take(b",]") == b"]":
                return

    def _members(self) -> Iterator[bytes]:
        """Yields an object's names; who asks takes the value before the next one."""
        self._at += 1
        if self._next() == b"}":
            self._at += 1
            return
        while True:
            if self._next() != b'"':
                raise self._broken()
            name = self._value()
            self._take(b":")
            yield name
            if self._take(b",}") == b"}":
                return

    def _is_bundle(self) -> bool:
        while len(self._buffer) - self._at < _BUNDLE_HEAD and self._fill():
            pass
        return _bundle_begins(self._buffer, self._at)

    def _next(self) -> bytes:
        """Goes to the next byte that is no blank and returns it; empty at the end."""
        while True:
            if found := _SOMETHING.search(self._buffer, self._at):
                self._at = found.start()
                return found[0]
            self._at = len(self._buffer)
            if not self._fill():
                return b""

    def _take(self, expected: bytes) -> bytes:
        found = self._next()
        if not found or found not in expected:
            raise self._broken()
        self._at += 1
        return found

    def _value(self) -> bytes:
        """Returns the text of the value that begins here, and goes behind it."""
        first = self._next()
        if first and first in b'{["':
            return self._taken(self._length())
        while True:
            scalar = _SCALAR.match(self._buffer, self._at)
            if scalar is None:
                raise self._broken()
            if scalar.end() < len(self._buffer) or not self._fill():
                return self._taken(len(scalar[0]))

    def _length(self) -> int:
        depth, known = 0, 0
        while True:
            for token in _TOKEN.finditer(self._buffer, self._at + known):
                sign = token[0][:1]
                if token[0] == b'"':
                    known = token.start() - self._at
                    break
                depth += (sign in b"{[") - (sign in b"}]")
                known = token.end() - self._at
                if depth == 0:
                    return known
            if not self._fill():
                raise self._broken()

    def _taken(self, length: int) -> bytes:
        text = self._buffer[self._at : self._at + length]
        self._at += length
        return text

    def _fill(self) -> bool:
        """Reads on; what is held of a value doubles, so that it is not looked at time and again."""
        held = self._buffer[self._at :]
        if len(held) > MAX_RESOURCE_BYTES:
            raise self._broken()
        more = self._stream.read(max(_CHUNK, len(held)))
        self._buffer, self._at = held + more, 0
        return bool(more)

    def _broken(self) -> BrokenDocumentError:
        return BrokenDocumentError(self._buffer[self._at :])

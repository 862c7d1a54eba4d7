"""A ZIP whose only member is itself, to the last byte: whoever unpacks it is never done.

Decided here: how one is made. Deflate knows literals ("the next n bytes stand as they are") and
copies ("the last n bytes once more"); each of the steps below writes what of the archive is still
to be written, itself included. The checksum stands in the archive whose checksum it is: as CRC-32
is linear, 32 equations say which one is right. Not decided here: what must come of it (`hostile`).
"""

import struct
import zlib
from zipfile import ZIP_DEFLATED

_LENGTHS = [(length, 0) for length in range(3, 11)]
_LENGTHS += [(11, 1), (13, 1), (15, 1), (17, 1), (19, 2), (23, 2), (27, 2), (31, 2)]
_LENGTHS += [(35, 3), (43, 3), (51, 3), (59, 3), (67, 4), (83, 4), (99, 4)]
"""Length codes with 7 bits: the first length, and how many bits follow."""
_DISTANCES = [(1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (7, 1), (9, 2), (13, 2), (17, 3), (25, 3)]
_DISTANCES += [(33, 4), (49, 4), (65, 5), (97, 5), (129, 6)]
_NOTHING = b"\0\0\0\xff\xff"
"""A literal of no bytes."""
_EMPTY = "010" + "0000000"
"""A block of fixed codes with none."""
_END = b"\1\0\0\xff\xff"


def quine(name: str = "again.zip") -> bytes:
    """Returns the archive; `name` is its member's, which is the same archive."""
    content = [_archive(name, 0)]
    content += [_archive(name, 1 << bit) for bit in range(32)]
    zero, *others = [zlib.crc32(each) for each in content]
    # checksum(x) = zero ^ (columns times x) is to be x
    columns = [other ^ zero ^ (1 << bit) for bit, other in enumerate(others)]
    return _archive(name, _solved(columns, zero))


def _archive(name: str, checksum: int) -> bytes:
    size = packed = 0
    whole = b""
    for _ in range(2):  # the sizes stand in the archive as well
        common = struct.pack(
            "<HHHHHLLLHH", 20, 0, ZIP_DEFLATED, 0, 0x21, checksum, packed, size, len(name), 0
        )
        before = b"PK\3\4" + common + name.encode()
        entry = b"PK\1\2" + struct.pack("<H", 20) + common
        entry += struct.pack("<HHHLL", 0, 0, 0, 0, 0) + name.encode()
        place = len(before) + packed
        end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(entry), place, 0)
        program = _program(before, _END + entry + end)
        whole = before + program + _END + entry + end
        size, packed = len(whole), len(program) + len(_END)
    return whole


def _program(before: bytes, after: bytes) -> bytes:
    """Returns deflate blocks that write what is before them, themselves, and what is after."""
    first = _literal(len(before) + 5)
    second = _copy(len(before) + 5)
    third = _literal(len(second))
    fourth = _literal(len(third + second) + 5)
    catch_up = _copy(len(third + second + fourth), size=21)
    again, four = _copy(26), _literal(26)
    assert len(again + four) * 2 == len(catch_up + four) == 26
    last = next(c for size in range(30) if len(c := _copy(size + len(after))) == size)
    two, tail = _copy(13), _literal(len(last + after))
    assert len(again + four + two + tail) == 26 and len(two + tail) == 13
    return b"".join(
        [
            first, before, first,
            second,
            third, second,
            fourth, third, second, fourth,
            catch_up,
            four, catch_up, four,
            again,
            four, again, four, again, four,
            again,
            four, again, four, two, tail,
            two,
            tail, last, after,
            last,
        ]
    )  # fmt: skip


def _literal(count: int) -> bytes:
    return struct.pack("<BHH", 0, count, count ^ 0xFFFF)


def _copy(count: int, *, size: int | None = None) -> bytes:
    """Returns the copy of the last so many bytes, in whole bytes; of a size, if one is given."""
    for nothings in range(4):
        for empty in range(8):
            bits = _block(count) + _EMPTY * empty + "000"
            bits += "0" * (-len(bits) % 8)
            octets = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
            found = octets + _NOTHING[1:] + _NOTHING * nothings
            if size in (None, len(found)):
                return found
    raise ValueError(f"no copy of {count} bytes has {size}")


def _block(count: int) -> str:
    """Returns a block of fixed codes with one copy; bits in the order in which they are read."""
    number, (base, extra) = max(each for each in enumerate(_LENGTHS) if each[1][0] <= count)
    length = f"{number + 1:07b}" + _low_first(count - base, extra)
    number, (base, extra) = max(each for each in enumerate(_DISTANCES) if each[1][0] <= count)
    return "010" + length + f"{number:05b}" + _low_first(count - base, extra) + "0000000"


def _low_first(value: int, bits: int) -> str:
    return f"{value:0{bits}b}"[::-1] if bits else ""


def _solved(columns: list[int], wanted: int) -> int:
    """Returns which columns give, by exclusive or, what is wanted: Gauss's elimination."""
    reduced: list[tuple[int, int]] = []
    for number, column in enumerate([*columns, wanted]):
        left, which = column, 1 << number
        for pivot, of in reduced:
            if left ^ pivot < left:
                left, which = left ^ pivot, which ^ of
        if number == len(columns):
            if left:
                raise ValueError("no checksum is its own; try another name")
            return which ^ (1 << number)
        if left:
            reduced = sorted([*reduced, (left, which)], reverse=True)
    raise AssertionError

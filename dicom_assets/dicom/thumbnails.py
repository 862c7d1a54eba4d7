"""Contact sheets: a small picture of each series, without anything of the patient.

Decided here: which images may be shown at all, how a frame becomes a picture, and how the sheet
looks. Not decided here: which instance stands for a series (the caller) or how pixels are decoded
(`pixels`). Captions hold the modality, a running number and a count; nothing else of the file.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dicom_assets.dicom.part10 import DicomFile, HeaderError, read_file
from dicom_assets.dicom.pixels import FrameShape, NoPreview, frame
from dicom_assets.dicom.source import Source
from dicom_assets.dicom.values import Converter
from dicom_assets.terminology import modality_concepts

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

_TRUSTED_MODALITIES = ("CT", "MR", "PT", "NM")
_TRUSTED_CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{number}"
    for number in ("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "20", "128", "128.1", "130")
)
_PALETTES = frozenset((0x00281201, 0x00281202, 0x00281203))
_SHARED, _PER_FRAME = "52009229", "52009230"

_BACKGROUND, _CARD, _PLACEHOLDER = (17, 20, 24), (27, 31, 37), (36, 41, 49)
_BRIGHT, _MUTED = (226, 230, 235), (150, 159, 171)
_MARGIN, _GAP, _PADDING, _CAPTION = 16, 12, 6, 38
_MOST_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Tile:
    """One series on a contact sheet.

    Attributes:
        modality: A code of PS3.16 CID 29, or `other`.
        pixels: uint8, (height, width) or (height, width, 3), or None where nothing is shown.
        reason: Why nothing is shown.
        instances: How many instances the series has.
    """

    modality: str
    pixels: np.ndarray | None
    reason: str | None = None
    instances: int = 1


def thumbnail(
    source: "str | PathLike[str] | BinaryIO", size: int = 96, *, instances: int = 1
) -> Tile:
    """Returns the tile of one instance: its middle frame, or why it is not shown.

    A picture is made only if the file says that nothing is burned in (0028,0301), or says nothing
    about it and is a primary CT, MR, PET or NM image, as scanners make them.

    Args:
        source: Path of a DICOM file, or the open file.
        size: Longest side of the picture, in pixels.
        instances: How many instances the series has, for the caption.

    Raises:
        OSError: The file cannot be opened or read. Bad content never raises.
    """
    if isinstance(source, str | PathLike):
        with open(source, "rb") as stream:
            return thumbnail(stream, size, instances=instances)
    modality = "other"
    try:
        file = read_file(Source(source), kept=_PALETTES)
        header = Converter(little_endian=file.little_endian).json(file.dataset)
        modality = _modality(header)
        _may_be_shown(header, file, modality)
        picture = _picture(source, file, header, size)
    except OSError:
        raise
    except HeaderError:
        return Tile(modality, None, "the header cannot be read", instances)
    except NoPreview as why:
        return Tile(modality, None, str(why), instances)
    except Exception:
        return Tile(modality, None, "damaged pixels: no preview", instances)
    return Tile(modality, picture, None, instances)


def _modality(header: dict[str, dict[str, Any]]) -> str:
    stated = str(_first(header, "00080060") or "").strip(" \0")
    # Free text could name the patient.
    return stated if stated in modality_concepts() else "other"


def _may_be_shown(header: dict[str, dict[str, Any]], file: DicomFile, modality: str) -> None:
    if file.pixels is None or _first(header, "00280010") is None:
        raise NoPreview(f"{modality}: no image")
    if "00280301" in header:
        if str(_first(header, "00280301") or "").strip(" \0") != "NO":
            raise NoPreview("not shown: may have burned-in text")
        return
    kinds = header.get("00080008", {}).get("Value", [])
    primary = len(kinds) > 1 and kinds[1] == "PRIMARY"
    trusted = modality in _TRUSTED_MODALITIES and _first(header, "00080016") in _TRUSTED_CLASSES
    if not (primary and trusted):
        raise NoPreview("not shown: may have burned-in text")


def _picture(
    stream: BinaryIO, file: DicomFile, header: dict[str, dict[str, Any]], size: int
) -> np.ndarray:
    photometric = str(_first(header, "00280004") or "MONOCHROME2").strip()
    allocated = int(_first(header, "00280100") or 8)
    stored = int(_first(header, "00280101") or allocated)
    shape = FrameShape(
        rows=int(_first(header, "00280010") or 0),
        columns=int(_first(header, "00280011") or 0),
        samples=int(_first(header, "00280002") or 1),
        allocated=allocated,
        stored=stored,
        high_bit=int(_first(header, "00280102") or stored - 1),
        signed=_first(header, "00280103") == 1,
        planar=_first(header, "00280006") == 1,
        halved=photometric == "YBR_FULL_422",
    )
    index = max(0, int(_first(header, "00280008") or 1)) // 2
    step = max(1, min(shape.rows, shape.columns) // (size * 4))
    values = frame(stream, file, shape, index=index, step=step)
    if values.ndim == 3:
        shown = _color(values, photometric, min(stored, allocated))
    elif photometric == "PALETTE COLOR":
        shown = _palette(values, file, header)
    elif photometric.startswith("MONOCHROME"):
        shown = _gray(values, header, index, inverted=photometric == "MONOCHROME1")
    else:
        raise NoPreview("unknown color: no preview")
    return _fitted(shown, size, _aspect(header, index))


def _gray(
    values: np.ndarray, header: dict[str, dict[str, Any]], index: int, *, inverted: bool
) -> np.ndarray:
    """Rescales and windows; without a window that shows something, cuts off the outliers."""
    slope = _grouped(header, index, "00289145", "00281053")
    intercept = _grouped(header, index, "00289145", "00281052")
    center = _grouped(header, index, "00289132", "00281050")
    width = _grouped(header, index, "00289132", "00281051")
    scaled = values.astype(np.float32) * (slope or 1.0) + (intercept or 0.0)
    shown = None
    if center is not None and width is not None and width > 1:
        shown = _stretched(scaled, center - width / 2, center + width / 2 - 1)
    if shown is None or shown.min() == shown.max():
        low, high = np.percentile(scaled, (1, 99))
        shown = _stretched(scaled, low, high)
    return 255 - shown if inverted else shown


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    span = max(high - low, 1e-6)
    return (np.clip((values - low) / span, 0, 1) * 255).astype(np.uint8)


def _color(values: np.ndarray, photometric: str, stored: int) -> np.ndarray:
    shown = (values >> max(0, stored - 8)).astype(np.uint8)
    if photometric == "RGB":
        return shown
    if photometric not in ("YBR_FULL", "YBR_FULL_422"):
        raise NoPreview("unknown color: no preview")
    # PS3.3 C.7.6.3.1.2
    matrix = np.array([[1, 1, 1], [0, -0.344136, 1.772], [1.402, -0.714136, 0]], np.float32)
    centered = shown.astype(np.float32) - np.array([0, 128, 128], np.float32)
    return np.clip(centered @ matrix + 0.5, 0, 255).astype(np.uint8)


def _palette(values: np.ndarray, file: DicomFile, header: dict[str, dict[str, Any]]) -> np.ndarray:
    channels = []
    for tag in sorted(_PALETTES):
        element = file.dataset.elements.get(tag)
        described = header.get(f"{tag - 0x100:08X}", {}).get("Value", [])
        if element is None or not isinstance(element.value, bytes) or len(described) != 3:
            raise NoPreview("palette without entries: no preview")
        entries, first, bits = described
        entries = entries or 65536
        if len(element.value) >= entries * 2:
            order = "<" if file.little_endian else ">"
            table = np.frombuffer(element.value, f"{order}u2", entries)
            table = (table >> (8 if bits > 8 else 0)).astype(np.uint8)
        else:
            table = np.frombuffer(element.value, np.uint8)[:entries]
        channels.append(table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)])
    return np.stack(channels, axis=-1)


def _fitted(shown: np.ndarray, size: int, aspect: float) -> np.ndarray:
    from PIL import Image

    height, width = shown.shape[0] * aspect, shown.shape[1]
    scale = size / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(np.ascontiguousarray(shown))
    return np.asarray(image.resize(target, Image.Resampling.LANCZOS))


def _aspect(header: dict[str, dict[str, Any]], index: int) -> float:
    """Returns the height of a pixel by its width."""
    spacing = header.get("00280034", {}).get("Value") or _group(
        header, index, "00289110", "00280030"
    )
    try:
        ratio = float(spacing[0]) / float(spacing[1])
    except (IndexError, TypeError, ValueError, ZeroDivisionError):
        return 1.0
    return ratio if 0.1 <= ratio <= 10 else 1.0


def _first(header: dict[str, dict[str, Any]], key: str) -> Any:
    values = header.get(key, {}).get("Value")
    return values[0] if values else None


def _group(header: dict[str, dict[str, Any]], index: int, macro: str, key: str) -> list[Any]:
    """Returns an attribute's values, of the frame's functional groups too (PS3.3 C.7.6.16)."""
    if key in header:
        return header[key].get("Value") or []
    for groups, at in ((_PER_FRAME, index), (_SHARED, 0)):
        items = header.get(groups, {}).get("Value") or []
        inner = items[at].get(macro, {}).get("Value") if at < len(items) else None
        if inner and key in inner[0]:
            return inner[0][key].get("Value") or []
    return []


def _grouped(header: dict[str, dict[str, Any]], index: int, macro: str, key: str) -> float | None:
    values = _group(header, index, macro, key)
    number = values[0] if values else None
    return float(number) if isinstance(number, int | float) else None


def contact_sheet(tiles: Sequence[Tile]) -> bytes:
    """Returns the tiles on a dark sheet, as PNG."""
    from PIL import Image, ImageDraw

    size = max((max(t.pixels.shape[:2]) for t in tiles if t.pixels is not None), default=96)
    size = max(size, 96)
    columns = min(_MOST_COLUMNS, max(1, math.ceil(math.sqrt(len(tiles) * 1.6))))
    rows = max(1, math.ceil(len(tiles) / columns))
    wide, high = size + 2 * _PADDING, size + 2 * _PADDING + _CAPTION
    width = 2 * _MARGIN + columns * wide + (columns - 1) * _GAP
    height = 2 * _MARGIN + rows * high + (rows - 1) * _GAP
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        left, top = _MARGIN + column * (wide + _GAP), _MARGIN + row * (high + _GAP)
        draw.rounded_rectangle((left, top, left + wide - 1, top + high - 1), 6, _CARD)
        box = (left + _PADDING, top + _PADDING)
        if tile.pixels is None:
            _draw_placeholder(draw, tile, box, size)
        else:
            draw.rectangle((*box, box[0] + size - 1, box[1] + size - 1), (0, 0, 0))
            picture = Image.fromarray(np.ascontiguousarray(tile.pixels)).convert("RGB")
            offset = (box[0] + (size - picture.width) // 2, box[1] + (size - picture.height) // 2)
            sheet.paste(picture, offset)
        below = box[1] + size + 4
        draw.text((box[0] + 1, below), f"{tile.modality} {number + 1}", _BRIGHT, _font(13))
        count = f"{tile.instances} instance{'' if tile.instances == 1 else 's'}"
        draw.text((box[0] + 1, below + 17), count, _MUTED, _font(12))
    out = io.BytesIO()
    sheet.save(out, "PNG", compress_level=3)  # as small as with `optimize`, in less time
    return out.getvalue()


def _draw_placeholder(draw: "ImageDraw", tile: Tile, box: tuple[int, int], size: int) -> None:
    draw.rectangle((*box, box[0] + size - 1, box[1] + size - 1), _PLACEHOLDER)
    lines: list[str] = []
    font = _font(12)
    for word in (tile.reason or "not shown").split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font) <= size - 12:
            lines[-1] = longer
        else:
            lines.append(word)
    middle = (box[0] + size / 2, box[1] + size / 2)
    draw.multiline_text(middle, "\n".join(lines), _MUTED, font, "mm", align="center")


def _font(size: int) -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(size)

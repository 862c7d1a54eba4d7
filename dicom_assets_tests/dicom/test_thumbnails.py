"""A thumbnail shows a series only where nothing of the patient can be on it."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_bytes import BIG_ENDIAN, DICOM_FILES, EXPLICIT, IMPLICIT, WHEEL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID

from dicom_assets.dicom import thumbnails
from dicom_assets.dicom.pixels import MOST_PIXELS
from dicom_assets.dicom.thumbnails import Tile, contact_sheet, thumbnail

CT = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
TEST_FILES = WHEEL / "test_files"
BURNED_IN = "not shown: may have burned-in text"


def image(pixels: np.ndarray, **attributes) -> Dataset:
    """A primary CT image of these pixels."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "1.2.3"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.4", "1.2.5"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality, dataset.PatientName = "CT", "Doe^Jane"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.PlanarConfiguration = 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def saved(dataset: Dataset, syntax: str = EXPLICIT) -> io.BytesIO:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return stream


def ramp(rows: int = 64, columns: int = 64) -> np.ndarray:
    return np.tile(np.arange(columns, dtype="<u2"), (rows, 1))


def shown(dataset: Dataset, syntax: str = EXPLICIT, size: int = 64) -> np.ndarray:
    tile = thumbnail(saved(dataset, syntax), size)
    assert tile.reason is None
    assert tile.pixels is not None
    return tile.pixels


def test_a_primary_ct_image_is_shown_with_its_modality_and_count():
    tile = thumbnail(TEST_FILES / "CT_small.dcm", 96, instances=24)
    assert (tile.modality, tile.instances, tile.reason) == ("CT", 24, None)
    assert tile.pixels is not None
    assert tile.pixels.shape == (96, 96)
    assert tile.pixels.dtype == np.uint8
    assert tile.pixels.std() > 20


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, None),
        (
            {"BurnedInAnnotation": "NO", "Modality": "US", "ImageType": ["DERIVED", "SECONDARY"]},
            None,
        ),
        ({"BurnedInAnnotation": "YES"}, BURNED_IN),
        ({"BurnedInAnnotation": ""}, BURNED_IN),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, BURNED_IN),
        ({"ImageType": ["ORIGINAL"]}, BURNED_IN),
        ({"Modality": "US"}, BURNED_IN),
        ({"SOPClassUID": SECONDARY_CAPTURE}, BURNED_IN),
        ({"SOPClassUID": f"{SECONDARY_CAPTURE}.4"}, BURNED_IN),
    ],
)
def test_pixels_that_may_hold_text_are_not_shown(attributes: dict, reason: str | None):
    tile = thumbnail(saved(image(ramp(), **attributes)))
    assert tile.reason == reason
    assert (tile.pixels is None) == (reason is not None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test-SR.dcm", "SR: no image"),
        ("rtstruct.dcm", "RTSTRUCT: no image"),
        ("JPEG2000.dcm", "JPEG 2000: no preview"),
        ("JPEG-lossy.dcm", "JPEG: no preview"),
        ("MR_small_jpeg_ls_lossless.dcm", "JPEG-LS: no preview"),
        ("MR_truncated.dcm", "damaged pixels: no preview"),
        ("SC_rgb_jpeg_gdcm.dcm", "JPEG lossless: no preview"),
        ("image_dfl.dcm", "Deflated: no preview"),
        ("README.txt", "the header cannot be read"),
    ],
)
def test_what_cannot_be_drawn_says_why(name: str, reason: str, monkeypatch):
    judge = thumbnails._may_be_shown

    def only_images(header, file, modality):
        if file.pixels is None:
            judge(header, file, modality)

    monkeypatch.setattr(thumbnails, "_may_be_shown", only_images)
    tile = thumbnail(TEST_FILES / name)
    assert (tile.pixels, tile.reason) == (None, reason)


def test_free_text_in_modality_does_not_become_a_caption():
    assert thumbnail(saved(image(ramp(), Modality="DOE JANE"))).modality == "other"


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_frames_are_decoded_as_pydicom_decodes_them(monkeypatch):
    frames = []

    def spy(*args, **kwargs):
        kwargs["step"] = 1
        frames.append((kwargs["index"], decode(*args, **kwargs)))
        return frames[-1][1]

    decode = thumbnails.frame
    monkeypatch.setattr(thumbnails, "frame", spy)
    monkeypatch.setattr(thumbnails, "_may_be_shown", lambda *_: None)
    compared = 0
    for path in DICOM_FILES:
        frames.clear()
        thumbnail(path)
        dataset = pydicom.dcmread(path, force=True)
        if not frames or "TransferSyntaxUID" not in dataset.file_meta:
            continue
        if dataset.PhotometricInterpretation == "YBR_FULL_422":
            continue  # pydicom goes on to RGB
        ((index, found),) = frames
        expected = dataset.pixel_array
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            expected = expected[index]
        assert np.array_equal(found.astype(np.int64), expected.astype(np.int64)), path.name
        compared += 1
    assert compared > 25


def test_the_first_window_is_applied_to_rescaled_values():
    dataset = image(
        ramp(), RescaleSlope=2, RescaleIntercept=-10, WindowCenter=[30, 1], WindowWidth=[20, 1]
    )
    row = shown(dataset)[0].astype(int)
    assert (row[:14] == 0).all()  # 2 * 14 - 10 is below 20
    assert (row[26:] == 255).all()
    assert (np.diff(row[15:25]) > 0).all()


def test_without_a_window_outliers_are_cut_off():
    pixels = ramp()
    pixels[0, 0] = 60000
    assert shown(image(pixels))[32, 62] > 240


def test_a_window_that_shows_nothing_is_not_used():
    assert shown(image(ramp(), WindowCenter=5000, WindowWidth=10)).std() > 50


def test_monochrome1_is_inverted():
    row = shown(image(ramp(), PhotometricInterpretation="MONOCHROME1"))[0].astype(int)
    assert row[0] > 240
    assert row[63] < 15


def test_bits_beyond_the_stored_ones_are_not_shown():
    clean = shown(image(ramp(), BitsStored=12, HighBit=11))
    overlaid = ramp() | np.uint16(0xF000)
    assert np.array_equal(shown(image(overlaid, BitsStored=12, HighBit=11)), clean)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_the_byte_order_does_not_matter(syntax: str):
    pixels = ramp().astype(">u2") if syntax == BIG_ENDIAN else ramp()
    assert np.array_equal(shown(image(pixels), syntax), shown(image(ramp())))


def test_the_middle_frame_is_shown_and_only_that_is_read():
    pixels = np.zeros((9, 64, 64), "<u2")
    pixels[4] = ramp()
    dataset = image(ramp(), NumberOfFrames=9, PixelData=pixels.tobytes())
    assert np.array_equal(shown(dataset), shown(image(ramp())))
    missing = image(ramp(), NumberOfFrames=9, PixelData=pixels[:4].tobytes())
    assert thumbnail(saved(missing)).reason == "damaged pixels: no preview"


def test_the_window_of_a_frame_is_found_in_its_functional_groups():
    def grouped(center: float) -> Dataset:
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 20
        group.FrameVOILUTSequence = [voi]
        return group

    pixels = np.stack([ramp(), ramp(), ramp()])
    frames = image(
        ramp(),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        NumberOfFrames=3,
        PixelData=pixels.tobytes(),
        PerFrameFunctionalGroupsSequence=[grouped(500), grouped(30), grouped(500)],
    )
    plain = image(ramp(), WindowCenter=30, WindowWidth=20)
    assert np.array_equal(shown(frames), shown(plain))


def test_rgb_and_ybr_keep_their_colors():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert shown(image(red), size=8)[4, 4].tolist() == [255, 0, 0]
    planar = image(red, PlanarConfiguration=1, PixelData=red.transpose(2, 0, 1).tobytes())
    assert shown(planar, size=8)[4, 4].tolist() == [255, 0, 0]
    ybr = np.tile(np.array([76, 85, 255], np.uint8), (8, 8, 1))
    color = shown(image(ybr, PhotometricInterpretation="YBR_FULL"), size=8)[4, 4].astype(int)
    assert abs(color - [254, 0, 0]).max() < 4
    halved = np.tile(np.array([76, 76, 85, 255], np.uint8), 32).tobytes()
    ybr422 = image(ybr, PhotometricInterpretation="YBR_FULL_422", PixelData=halved)
    assert np.array_equal(shown(ybr422, size=8)[4, 4], color)


def test_palette_colors_are_those_of_the_palette(monkeypatch):
    monkeypatch.setattr(thumbnails, "_may_be_shown", lambda *_: None)
    path = TEST_FILES / "examples_palette.dcm"
    dataset = pydicom.dcmread(path)
    expected = (apply_color_lut(dataset.pixel_array, dataset) >> 8).astype(np.uint8)
    whole = thumbnail(path, size=max(expected.shape[:2]))
    assert whole.pixels is not None
    assert np.array_equal(whole.pixels, expected)


def test_pixels_that_are_not_square_are_drawn_square():
    assert shown(image(ramp(32, 64))).shape == (32, 64)
    assert shown(image(ramp(32, 64), PixelSpacing=[2, 1])).shape == (64, 64)
    assert shown(image(ramp(32, 64), PixelAspectRatio=[1, 2])).shape == (16, 64)


def test_frames_too_large_are_refused_unread():
    huge = image(ramp(), Rows=65535, Columns=MOST_PIXELS // 65535 + 1)
    assert thumbnail(saved(huge)).reason == "too large for a preview"


SMALL = [path.read_bytes() for path in DICOM_FILES if path.stat().st_size < 60_000]


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(SMALL),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4))),
)
def test_bad_pixels_never_raise(monkeypatch, data, edits):
    monkeypatch.setattr(thumbnails, "_may_be_shown", lambda *_: None)
    spoilt = bytearray(data)
    for where, snippet in edits:
        at = int(where * len(spoilt))
        spoilt[at : at + len(snippet)] = snippet
    tile = thumbnail(io.BytesIO(spoilt), 32)
    assert (tile.pixels is None) != (tile.reason is None)


def test_a_contact_sheet_is_a_picture_of_all_tiles():
    tiles = [
        thumbnail(TEST_FILES / "CT_small.dcm"),
        Tile("SR", None, "SR: no image", 2),
        Tile("MR", np.zeros((96, 40, 3), np.uint8), None, 300),
    ]
    sheet = Image.open(io.BytesIO(contact_sheet(tiles)))
    assert sheet.format == "PNG"
    assert not sheet.info
    assert sheet.width > 3 * 96
    assert np.unique(np.asarray(sheet)).size > 100


@pytest.mark.parametrize("count", [1, 7, 200])
def test_a_contact_sheet_of_any_number_of_series_can_be_drawn(count: int):
    sheet = Image.open(io.BytesIO(contact_sheet([Tile("CT", None, "CT: no image")] * count)))
    assert sheet.width * sheet.height < 4_000_000


def test_a_file_that_is_not_there_is_an_error_of_the_machine(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        thumbnail(tmp_path / "gone.dcm")

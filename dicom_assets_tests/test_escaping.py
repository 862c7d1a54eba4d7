r"""Names and values of senders reach paths, queries, links and screens as text, never as more.

Properties of each function that escapes, on any text; then the whole chain with such values in
every place, and look-ups by key over what came of it.
"""

import html
import os
import re
import zipfile
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import QueryBuilder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicom_assets.console import print_table, shown
from dicom_assets.defs.metadata import markdown
from dicom_assets.lakehouse.layout import Layout, is_safe_name, organised_name, printable
from dicom_assets.lakehouse.query import rows_of
from dicom_assets.lakehouse.sql import literal, quoted
from dicom_assets.omop.studies import series_of, studies
from dicom_assets.settings import SettingsError, load_settings
from dicom_assets.steps import catalog
from dicom_assets_tests.conftest import DAY, dicom

INJECTIONS = [
    "x' OR 1=1 --",
    "x'; DROP TABLE source; --",
    "\\' OR 1=1 --",
    "' UNION SELECT * FROM source --",
    "''",
    '"',
    '"; --',
    "$1",
    "{{7*7}}",
    "${HOME}",
    "`id`",
    "%27 OR 1",
    "a\nb",
    "a\0b",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egnp.exe",
    "../../../../etc/passwd",
    "..\\..\\x",
    "/etc/passwd",
    "C:\\x",
    "<script>alert(1)</script>",
    "![x](https://a.example/x.png)",
    "| a | b |",
    "ß'é\u2028\u0301",
    "🩻'",
]
FEW = settings(max_examples=60, deadline=None)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


def with_injections(test):
    """Tries every injection besides what hypothesis thinks of."""
    for each in INJECTIONS:
        test = example(each)(test)
    return test


@FEW
@with_injections
@given(TEXTS)
def test_a_literal_is_the_value_and_nothing_else(value):
    found = pa.table(QueryBuilder().execute(f"SELECT {literal(value)} AS v"))
    assert found["v"].to_pylist() == [value]


@FEW
@with_injections
@given(TEXTS)
def test_a_quoted_name_is_the_column_and_nothing_else(name):
    name = name.replace("\0", "") or "a"  # no column may hold it
    found = pa.table(QueryBuilder().execute(f"SELECT 1 AS {quoted(name)}"))
    assert found.column_names == [name]


@pytest.fixture(scope="module")
def injected(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("injected") / "file.parquet"
    pq.write_table(pa.table({"key": INJECTIONS, "n": range(len(INJECTIONS))}), path)
    return path


@pytest.mark.parametrize("value", INJECTIONS)
def test_a_look_up_finds_its_own_row_alone(injected, value):
    schema = pa.schema([("n", pa.int64())])
    (found,) = rows_of(injected, schema, {}, {"key": pa.array([value])})
    assert found["n"].to_pylist() == [INJECTIONS.index(value)]


def test_a_look_up_of_all_finds_each_once(injected):
    schema = pa.schema([("key", pa.string())])
    batches = rows_of(injected, schema, {}, {"key": pa.array(INJECTIONS)})
    found = pa.Table.from_batches(batches)
    assert sorted(found["key"].to_pylist()) == sorted(INJECTIONS)


NAMES = st.binary(min_size=1, max_size=300).map(os.fsdecode)


@FEW
@with_injections
@given(NAMES | TEXTS)
def test_an_organised_name_is_one_name_in_its_folder(original):
    name = organised_name(1700000000000, original)
    assert PurePosixPath(name).name == name
    assert name.startswith("1700000000000_")
    assert name.isprintable() or not re.search(
        r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e]", name
    )
    assert len(name.encode()) < 250


@FEW
@with_injections
@given(NAMES | TEXTS)
def test_a_path_in_a_table_is_text(name):
    assert printable(name).encode() or not name
    assert printable(printable(name)) == printable(name)


@FEW
@with_injections
@given(TEXTS)
def test_what_is_shown_commands_no_terminal(value):
    assert shown(value).isprintable()
    if value.isprintable():
        assert shown(value) == value


def test_a_printed_table_holds_no_escape_sequence(capsys):
    print_table(["what"], [[value] for value in INJECTIONS])
    out = capsys.readouterr().out
    assert r"\x1b[2J\x1b]0;owned\x07" in out
    assert r"\u202e" in out
    assert not set("\x1b\x07\x00\u202e") & set(out)


@FEW
@with_injections
@given(TEXTS)
def test_a_markdown_cell_is_one_cell_of_text(value):
    *_, row = markdown(pd.DataFrame([{"a": value, "b": 1}])).split("\n")
    cells = re.fullmatch(r"\| (.*) \| 1 \|", row)
    assert cells, "one line, two cells"
    assert not set(cells[1].replace("&#", "")) & set("<>[]()!|`*\\\"'")
    if value.isprintable():
        assert html.unescape(cells[1]) == value


BAD_NAMESPACES = [
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "a|b",
    "2026",
    "default",
    "new\nline",
    "esc\x1b[2J",
    "right\u202eleft",
    "%41",
    "C:",
    " blank",
    "dot.",
    "x" * 128,
    "",
]


@pytest.mark.parametrize("name", BAD_NAMESPACES)
def test_a_folder_with_such_a_name_is_no_namespace(name):
    assert not load_settings(source_systems=("*",)).is_namespace(name)
    with pytest.raises(SettingsError, match="cannot be a namespace"):
        load_settings(source_systems=("PACS1", name))


@pytest.mark.parametrize("name", ["PACS1", "O'Hara", "Klinik für Röntgen", "x'; DROP TABLE a; --"])
def test_a_folder_with_a_name_that_is_safe_is_one(name):
    assert is_safe_name(name)
    assert load_settings(source_systems=("*",)).is_namespace(name)


@FEW
@given(TEXTS)
def test_a_namespace_is_one_folder(name):
    if load_settings(source_systems=("*",)).is_namespace(name):
        root = Path("/root")
        folder = Layout(root).process_folder(name, DAY)
        assert folder.parents[2].name == name
        assert folder.parents[3] == Layout(root).process_root


NAMESPACES = ["O'Hara -- x", "Röntgen; DROP TABLE", "a\nb", "%2e%2e"]


def test_the_chain_takes_such_values_for_what_they_are(make_house):
    house = make_house(
        source_systems=("*",),
        dicomweb_base_address="https://pacs.example/dicom-web",
        promoted_tags={"InstitutionName": "select"},
    )
    expected = 0
    for place, namespace in enumerate(NAMESPACES):
        # a value does the same in each: the first takes all of them, the others a few
        for number, value in enumerate(INJECTIONS[:: 12 if place else 1]):
            file = house.drop / namespace / f"{number}.dcm"
            text = value.replace("\0", "").replace("\\", "")  # DICOM takes these for its own
            code = text.encode("ascii", "ignore").decode()[:16]
            dicom(
                file,
                StudyInstanceUID=f"1.2.{place}.{number}",
                SeriesInstanceUID=f"1.2.{place}.{number}.1",
                PatientID=text[:60],
                PatientName=text[:60],
                AccessionNumber=text[:16],
                StudyDescription=text,
                SeriesDescription=text,
                Modality=code,
                BodyPartExamined=code,
                InstitutionName=text,
                SpecificCharacterSet="ISO_IR 192",
            )
            name = os.fsencode(value.replace("/", "_").replace("\0", "_")) + b".dcm"
            file.rename(os.fsdecode(os.fsencode(file.parent) + b"/" + name))
            expected += 1
    uid = dicom(
        house.drop / "uid.dcm",
        StudyInstanceUID="1.2.3.4' OR '1'='1",
        SeriesInstanceUID="1.2.3/../../x?y#z",
        SOPInstanceUID="1.2.3'; --",
    ).SOPInstanceUID
    whole = (house.drop / "uid.dcm").read_bytes()
    with zipfile.ZipFile(house.drop / "members.zip", "w") as archive:
        for value in INJECTIONS:
            archive.writestr(f"{value}/'; DROP TABLE --.dcm", whole)
    before = sorted(house.settings.lakehouse.parent.iterdir())
    for _ in range(2):
        house.chain()
    root = house.settings.lakehouse
    assert sorted(root.parent.iterdir()) == before, "nothing lies outside of the lakehouse"
    assert house.files("bronze/Files/Ingest") == []
    rows = house.metastore()
    assert len(rows) + len(house.failures()) >= expected + 1
    engine, gold, silver = (
        house.run.engine,
        catalog.IMAGE_OCCURRENCE,
        catalog.silver_imaging_study(),
    )
    assert {row["sourceSystem"] for row in rows} == {*NAMESPACES[:2], "default"}
    assert uid in {row["sopInstanceUid"] for row in rows}
    for row in rows:
        lies = house.run.engine.layout.absolute(row["filePath"])
        assert lies.is_relative_to(root / "bronze/Files/Process")
        assert lies.is_file()
    studies_held = engine.read(silver, ["id", "sourceSystem"]).to_pylist()
    assert len(studies_held) == len(
        {
            (row["sourceSystem"], row["studyInstanceUid"])
            for row in rows
            if row["sopInstanceUid"] != uid
        }
    )
    for study in studies_held:
        found = engine.read(silver, silver.schema.names, where={"id": [study["id"]]})
        assert found.num_rows == 1
        (series,) = [s for each in studies(found) for s in series_of(each)]
        held = engine.read(gold, gold.schema.names, where={"sourceRecordId": [study["id"]]})
        (occurrence,) = held.to_pylist()
        assert occurrence["image_series_uid"] == series.uid
        assert re.fullmatch(
            r"https://pacs\.example/dicom-web/studies/[0-9.]+", occurrence["wadors_uri"]
        )
    for value in {row["patientId"] for row in rows}:
        found = engine.read(
            house.run.metastore, ["patientId", "select"], where={"patientId": [value]}
        )
        assert set(found["patientId"].to_pylist()) == {value}

"""A plain PySpark job that does what ours does, on local[2], to measure ours against.

The files are moved as in the straightforward pipeline (its ZIPs are unpacked as Spark tasks); from
there DataFrames: pydicom in `mapInPandas`, a group by study, Delta tables and MERGE. Its UDFs are
the straightforward pipeline's functions. Delta tables need delta-spark's jars (`make bench` fetches
them); without them or without Java nothing is run and the report says so.
"""

import atexit
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import straightforward
from benchmarks.spark_cluster import JARS

_TASKS = 4
_METASTORE = ", ".join(
    [f"{tag.column} string" for tag in straightforward.PROMOTED_TAGS]
    + ["metadata_string string", "transferSyntaxUid string", "fileSize long", "contentHash string"]
    + ["filePath string", "ingestDate date", "sourceSystem string", "ingestedAt timestamp"]
)
_SILVER = (
    "id string, idOrig string, sourceSystem string, modifiedAt timestamp, status string, "
    "started string, description string, numberOfSeries int, numberOfInstances int, "
    "meta_string string, identifier_string string, modality_string string, subject_string string, "
    "referrer_string string, series_string string"
)
_AUDIT = "sourceSystem string, modifiedAt timestamp"
_GOLD = {
    "Image_Occurrence": (
        "image_occurrence_id long, person_id long, procedure_occurrence_id long, "
        "image_occurrence_date date, image_study_uid string, image_series_uid string, "
        "modality_concept_id int, modality_source_value string, "
        f"anatomic_site_source_value string, {_AUDIT}"
    ),
    "person": f"person_id long, person_source_value string, {_AUDIT}",
    "procedure_occurrence": (
        "procedure_occurrence_id long, person_id long, procedure_date date, "
        f"procedure_source_value string, {_AUDIT}"
    ),
}


def run(drop: Path, lakehouse: Path) -> dict[str, float]:
    """Runs drop folder → gold; returns the seconds of each stage, the session's start first."""
    clock = straightforward.Clock()
    spark = _session(lakehouse)
    clock.lap("session")
    processed = lakehouse / "bronze/Files/Process" / f"{date.today():%Y/%m/%d}"
    processed.mkdir(parents=True, exist_ok=True)
    files = _organise(spark, drop, processed)
    clock.lap("organise")
    metastore = str(lakehouse / "bronze/Tables/dicomimagingmetastore")
    paths = spark.createDataFrame([(str(path),) for path in files], "path string")
    rows = paths.repartition(_TASKS).mapInPandas(_read, _METASTORE)
    rows.write.format("delta").mode("append").save(metastore)
    clock.lap("extract")
    ndjson = str(lakehouse / "bronze/Files/Process/FHIR/ImagingStudy")
    studies = spark.read.format("delta").load(metastore).drop("metadata_string")
    lines = studies.groupBy("studyInstanceUid").applyInPandas(_study, "value string")
    lines.coalesce(1).write.text(ndjson)
    bronze = spark.read.text(ndjson).selectExpr(
        "value as resource", "get_json_object(value, '$.id') as id", "input_file_name() as filePath"
    )
    bronze_table = str(lakehouse / "bronze/Tables/ImagingStudy")
    bronze.write.format("delta").mode("append").save(bronze_table)
    clock.lap("fhir")
    stored = spark.read.format("delta").load(bronze_table).select("resource")
    silver = lakehouse / "silver/Tables/ImagingStudy"
    _upsert(spark, silver, stored.mapInPandas(_silver, _SILVER), "id")
    clock.lap("silver")
    flat = spark.read.format("delta").load(str(silver))
    for name, schema in _GOLD.items():
        key = schema.partition(" ")[0]
        rows = flat.mapInPandas(_gold(name), schema).dropDuplicates([key])
        _upsert(spark, lakehouse / "gold/Tables" / name, rows, key)
    clock.lap("gold")
    atexit.register(spark.stop)  # not part of the work
    return clock.laps


def _session(lakehouse: Path) -> Any:
    from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports]

    os.environ["PYSPARK_PYTHON"] = sys.executable
    catalog = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
    return (
        SparkSession.builder.master("local[2]")
        .config("spark.jars", ",".join(map(str, JARS.glob("*.jar"))))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", catalog)
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.databricks.delta.snapshotPartitions", "2")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "500")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.warehouse.dir", str(lakehouse / "warehouse"))
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )


def _organise(spark: Any, drop: Path, processed: Path) -> list[Path]:
    zips = sorted(path for path in drop.rglob("*.zip"))
    if not zips:
        return straightforward.organise(drop, processed)
    stamp = int(time.time() * 1000)
    parts = [(path, stamp + number * 100_000) for number, path in enumerate(zips)]
    unpacked = spark.sparkContext.parallelize(parts, len(parts)).flatMap(
        lambda part: straightforward.extract_zip(part[0], processed, itertools.count(part[1]))
    )
    files = unpacked.collect()
    for path in zips:
        path.unlink()
    return files


def _read(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for batch in batches:
        rows = [straightforward.read_and_pack(Path(path)) for path in batch["path"]]
        yield pd.DataFrame(rows)


def _study(rows: pd.DataFrame) -> pd.DataFrame:
    known = rows.astype(object).where(rows.notna(), None)
    return pd.DataFrame({"value": [straightforward.imaging_study(known.to_dict("records"))]})


def _silver(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for batch in batches:
        yield pd.DataFrame([straightforward.silver_row(line) for line in batch["resource"]])


def _gold(name: str) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    def rows(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            yield pd.DataFrame(straightforward.gold_rows(batch.to_dict("records"))[name])

    return rows


def _upsert(spark: Any, table: Path, rows: Any, key: str) -> None:
    """Merges rows into a Delta table by its key; makes the table the first time."""
    if not (table / "_delta_log").exists():
        spark.createDataFrame([], rows.schema).write.format("delta").save(str(table))
    rows.createOrReplaceTempView("arriving")
    spark.sql(
        f"MERGE INTO delta.`{table}` t USING arriving s ON t.{key} = s.{key} "
        "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
    )

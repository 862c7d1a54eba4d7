"""Re-sent, conflicting, late and wrong: bronze keeps all, silver and gold hold one truth."""

import os
import shutil
import zipfile
from datetime import date, timedelta
from itertools import permutations

import orjson
import pytest

from dicom_assets.defs.checks import RULES
from dicom_assets.lakehouse.operations import operation
from dicom_assets.steps import ask, catalog
from dicom_assets.steps.reconcile import Day
from dicom_assets.steps.status import by_date, unusual
from dicom_assets_tests.conftest import DAY

NEXT, LATER = DAY + timedelta(days=1), DAY + timedelta(days=3 * 365)


ANOTHER = {"StudyInstanceUID": "1.2.2", "SeriesInstanceUID": "1.2.2.1", "SOPInstanceUID": "1.2.12"}


@pytest.fixture
def send(house, write_dicom):
    """Drops instance 1.2.9 in study A, series A.1 of patient P1, or as said; runs the chain."""

    def drop_and_run(day: date = DAY, name: str = "x.dcm", **elements: str | None) -> None:
        write_dicom(house.drop / name, **one(**elements))
        house.chain(day)

    return drop_and_run


@pytest.fixture
def send_all(house, write_dicom):
    """Drops several files; runs the chain."""

    def drop_and_run(day: date, *files: dict[str, str | None]) -> None:
        for number, elements in enumerate(files):
            write_dicom(house.drop / f"{number}.dcm", **elements)
        house.chain(day)

    return drop_and_run


def one(**elements: str | None) -> dict[str, str | None]:
    uids = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1", "SOPInstanceUID": "1.2.9"}
    return uids | elements


def study(
    number: int, series: int = 1, instance: int = 1, **elements: str | None
) -> dict[str, str | None]:
    """An instance of a study, whose UIDs tell where it belongs."""
    uid = f"1.2.{number}"
    return {
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": f"{uid}.{series}",
        "SOPInstanceUID": f"{uid}.{series}.{instance}",
        **elements,
    }


def places(house) -> set[tuple[str, str, str, str]]:
    """Source system, study, series and SOP Instance UID of all that silver holds."""
    columns = ["sourceSystem", "idOrig", "series_string"]
    rows = house.run.engine.read(catalog.silver_imaging_study(), columns).to_pylist()
    found = [
        (row["sourceSystem"], row["idOrig"], series["uid"], instance["uid"])
        for row in rows
        for series in series_of(row)
        for instance in series["instance"]
    ]
    assert len(found) == len(set(found))
    return set(found)


def series_of(row) -> list[dict]:
    return orjson.loads(row["series_string"] or "[]")


def gold(house) -> set[tuple[str, str, str]]:
    rows = house.rows(catalog.IMAGE_OCCURRENCE)
    return {(r["sourceSystem"], r["image_study_uid"], r["image_series_uid"]) for r in rows}


def patients(house) -> set[str | None]:
    return {row["person_source_value"] for row in house.rows(catalog.PERSON)}


def conflicts(house) -> set[tuple[str, str, str, str]]:
    """Level, attribute, kept value, other value."""
    rows = house.rows(catalog.CONFLICTS)
    return {(r["level"], r["attribute"], r["newerValue"], r["olderValue"]) for r in rows}


def broken(house, *days: date) -> set[str]:
    return {
        rule.name
        for found in [Day(house.on(day)) for day in days or (DAY,)]
        for rule in RULES
        if rule.blocking and not rule.evaluate(found)[0]
    }


def test_the_same_bytes_again_under_another_name_and_on_another_day_change_nothing(
    house, write_dicom
):
    house.drop.mkdir(exist_ok=True)
    kept = house.settings.lakehouse / "kept.dcm"
    write_dicom(kept, **one())
    shutil.copy(kept, house.drop / "a.dcm")
    house.chain(DAY)
    before = places(house), gold(house), patients(house)
    with zipfile.ZipFile(house.drop / "again.zip", "w") as archive:
        archive.write(kept, "deep/other.dcm")
    shutil.copy(kept, house.drop / "b.dcm")
    house.chain(NEXT)
    assert len(house.metastore()) == 3, "bronze keeps all"
    assert (places(house), gold(house), patients(house)) == before
    assert conflicts(house) == set()
    assert Day(house.on(NEXT)).resent() == {"resent": 1, "conflicting": 0}
    assert broken(house, DAY, NEXT) == set()


def test_of_files_that_contradict_each_other_the_newer_counts_and_both_are_shown(house, send_all):
    """Two contents of one instance, one series in two studies, one study of two patients."""
    send_all(
        DAY,
        study(1, InstanceNumber="1", StudyDescription="first"),
        study(2),
        study(3, PatientID="P3"),
    )
    again = study(1, InstanceNumber="2", StudyDescription="second")
    elsewhere = study(4, PatientID="P2") | {"SeriesInstanceUID": "1.2.2.1"}
    theirs = study(3, SOPInstanceUID="1.2.3.1.2", PatientID="P4", PatientSex="F")
    send_all(NEXT, again, elsewhere, theirs)
    rows = {row["idOrig"]: row for row in house.rows(catalog.silver_imaging_study())}
    (instance,) = series_of(rows["1.2.1"])[0]["instance"]
    assert (rows["1.2.1"]["description"], instance["number"]) == ("second", 2)
    assert rows["1.2.3"]["subject"]["identifier"]["value"] == "P4"
    assert places(house) == {
        ("default", "1.2.1", "1.2.1.1", "1.2.1.1.1"),
        ("default", "1.2.2", "1.2.2.1", "1.2.2.1.1"),
        ("default", "1.2.4", "1.2.2.1", "1.2.4.1.1"),
        ("default", "1.2.3", "1.2.3.1", "1.2.3.1.1"),
        ("default", "1.2.3", "1.2.3.1", "1.2.3.1.2"),
    }
    assert len(house.metastore()) == 6, "bronze keeps all"
    assert len(house.rows(catalog.IMAGE_OCCURRENCE)) == 4
    assert patients(house) == {"P1", "P2", "P4"}
    twice = [row for row in house.metastore() if row["studyInstanceUid"] == "1.2.1"]
    hashes = {row["ingestDate"]: row["contentHash"] for row in twice}
    assert conflicts(house) == {
        ("instance", "contentHash", hashes[NEXT], hashes[DAY]),
        ("study", "studyDescription", "second", "first"),
        ("series", "studyInstanceUid", "1.2.4", "1.2.2"),
        ("study", "patientId", "P4", "P3"),
    }
    row = next(r for r in house.rows(catalog.CONFLICTS) if r["level"] == "instance")
    sides = {row["newerPath"], row["olderPath"]}
    assert sides == {each["filePath"] for each in twice}
    assert row["newerArrivedAt"] > row["olderArrivedAt"]
    assert broken(house, DAY, NEXT) == set()


def test_an_instance_that_comes_in_another_series_or_study_leaves_the_first_also_back_again(
    house, send_all
):
    """Alone in its study, beside another one, and into another series of its study."""
    alone, beside, other = study(1), study(2, PatientID="P2"), study(3, PatientID="P3")
    stays = study(2, PatientID="P2", SOPInstanceUID="1.2.2.1.2")
    send_all(DAY, alone, beside, stays, other)
    in_study = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.4.1", "PatientID": "P4"}
    besides = {"StudyInstanceUID": "1.2.5", "SeriesInstanceUID": "1.2.5.1", "PatientID": "P5"}
    moved = other | {"SeriesInstanceUID": "1.2.3.2"}
    send_all(NEXT, alone | in_study, beside | besides, moved)
    rest = {("default", "1.2.2", "1.2.2.1", "1.2.2.1.2")}
    assert places(house) == rest | {
        ("default", "1.2.4", "1.2.4.1", "1.2.1.1.1"),
        ("default", "1.2.5", "1.2.5.1", "1.2.2.1.1"),
        ("default", "1.2.3", "1.2.3.2", "1.2.3.1.1"),
    }
    assert gold(house) == {place[:3] for place in places(house)}
    assert patients(house) == {"P2", "P3", "P4", "P5"}
    assert len(house.rows(catalog.PROCEDURE_OCCURRENCE)) == 4
    assert conflicts(house) > {
        ("instance", "studyInstanceUid", "1.2.4", "1.2.1"),
        ("instance", "studyInstanceUid", "1.2.5", "1.2.2"),
        ("instance", "seriesInstanceUid", "1.2.3.2", "1.2.3.1"),
    }
    assert broken(house, DAY, NEXT) == set()
    send_all(LATER, alone, beside, other)
    assert places(house) == rest | {
        ("default", f"1.2.{study}", f"1.2.{study}.1", f"1.2.{study}.1.1") for study in (1, 2, 3)
    }
    assert gold(house) == {place[:3] for place in places(house)}
    assert patients(house) == {"P1", "P2", "P3"}
    assert broken(house, DAY, NEXT, LATER) == set()


def test_study_attributes_that_differ_between_files_are_the_newest_ones_and_shown_once(
    house, write_dicom
):
    for number in range(6):
        write_dicom(
            house.drop / f"{number}.dcm",
            **one(SOPInstanceUID=f"1.2.{number}", AccessionNumber=f"A{number % 2}"),
        )
    house.chain()
    rows = house.rows(catalog.CONFLICTS)
    assert [(row["level"], row["attribute"]) for row in rows] == [("study", "accessionNumber")]
    (study,) = house.rows(catalog.silver_imaging_study())
    (accession,) = [i["value"] for i in study["identifier"] if i["value"][0] == "A"]
    assert rows[0]["newerValue"] == accession, "it is the one that counts"


def test_parts_that_come_years_after_or_before_are_one_study_and_said_to_be_late_or_out_of_order(
    house, send, write_dicom
):
    """By a check and by status; of one study a part came before on an earlier date, too."""

    def drop_other(number: int) -> None:
        other = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}
        write_dicom(house.drop / "z.dcm", **one(**other, SOPInstanceUID=f"1.2.3.1.{number}"))

    (rule,) = (each for each in RULES if each.name == "dates_in_order")
    write_dicom(house.drop / "y.dcm", **one(**ANOTHER))
    send(DAY)
    assert rule.evaluate(Day(house.on(DAY))) == (True, {"late": 0, "out_of_order": 0})
    drop_other(1)
    send(LATER, SOPInstanceUID="1.2.10")
    assert rule.evaluate(Day(house.on(LATER))) == (True, {"late": 1, "out_of_order": 0})
    drop_other(2)
    send(NEXT, SOPInstanceUID="1.2.11", StudyDescription="a past date's run")
    said = operation(
        operation="reread", requestedBy="me", reason="wrong", id="r", studyInstanceUid="1.2.2"
    )
    ask.ask(house.run.engine, said, source_system="default")
    house.chain(LATER)
    assert rule.evaluate(Day(house.on(NEXT))) == (False, {"late": 1, "out_of_order": 2})
    assert rule.evaluate(Day(house.on(LATER)))[1] == {"late": 1, "out_of_order": 0}, "read again"
    shown = unusual(house.settings, by_date(house.run.engine, house.settings, days=9))
    assert [(each.day, [*each.counts.values()]) for each in shown] == [
        (f"{LATER}", [0, 0, 1, 0, 0]),
        (f"{NEXT}", [0, 0, 1, 2, 0]),
    ]
    parts = {place[3] for place in places(house) if place[1] == "1.2.1"}
    assert parts == {"1.2.9", "1.2.10", "1.2.11"}
    assert len(house.rows(catalog.silver_imaging_study())) == 3
    assert broken(house, DAY, NEXT, LATER) == set()


def test_the_same_uids_from_namespaces_are_never_one(make_house, write_dicom):
    patients_of = {"pacs": "P1", "vna": "P2", "clinic": "P1"}
    house = make_house(source_systems=[*patients_of])
    for system, patient in patients_of.items():
        write_dicom(house.drop / system / "x.dcm", **one(PatientID=patient))
    house.chain()
    assert {place[0] for place in places(house)} == {*patients_of}
    assert gold(house) == {place[:3] for place in places(house)}
    assert len(house.metastore()) == len(house.rows(catalog.IMAGE_OCCURRENCE)) == 3
    assert len({row["person_id"] for row in house.rows(catalog.IMAGE_OCCURRENCE)}) == 3
    root = house.settings.lakehouse / "bronze/Files/Process/Clinical/FHIR NDJSON"
    assert {path.name for path in root.iterdir()} == {*patients_of}, "so are their FHIR files"
    day = Day(house.on(DAY))
    (rule,) = (each for each in RULES if each.name == "namespaces_are_apart")
    assert rule.evaluate(day) == (True, {"in_other_namespaces": 3})
    (shown,) = unusual(house.settings, by_date(house.run.engine, house.settings, days=1))
    assert shown.counts["studies also in another namespace"] == 3
    assert conflicts(house) == set()
    assert broken(house) == set()


def test_a_date_that_was_stopped_after_any_step_does_not_bring_older_files_over_newer_ones(
    house, write_dicom
):
    """Each date with a study of its own."""
    stopped = [*enumerate(["organise", "extract", "settle", "convert"], start=1)]
    days = {number: DAY + timedelta(days=number) for number, _ in stopped}
    for number, step in stopped:
        older = study(number, StudyDescription="older")
        write_dicom(house.drop / "x.dcm", **older)
        write_dicom(house.drop / "y.dcm", **older | {"SOPInstanceUID": f"1.2.{number}.1.2"})
        house.chain(days[number], until=step)
    for number, _ in stopped:
        newer = study(number, StudyInstanceUID=f"1.2.1{number}", StudyDescription="newer")
        write_dicom(house.drop / f"{number}.dcm", **newer)
    house.chain(LATER)
    for day in days.values():
        house.chain(day)
    assert places(house) == {
        place
        for number, _ in stopped
        for place in (
            ("default", f"1.2.{number}", f"1.2.{number}.1", f"1.2.{number}.1.2"),
            ("default", f"1.2.1{number}", f"1.2.{number}.1", f"1.2.{number}.1.1"),
        )
    }
    assert gold(house) == {place[:3] for place in places(house)}
    assert broken(house, *days.values(), LATER) == set()


def test_a_file_without_patient_id_says_its_patients_sex_also_when_an_older_date_is_finished(
    house, write_dicom
):
    write_dicom(house.drop / "a.dcm", **one(SOPInstanceUID="1.2.7", PatientID="P5"))
    house.chain(DAY, until="flatten")
    another = one(StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1")
    for number, elements in enumerate(
        (
            another | {"SOPInstanceUID": "1.2.8", "PatientID": "P1"},
            one(PatientID="P1", PatientSex="F"),
            another | {"SOPInstanceUID": "1.2.7", "PatientID": None, "PatientSex": "M"},
        )
    ):
        write_dicom(path := house.drop / f"{number}.dcm", **elements)
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    house.chain(NEXT)
    people = house.rows(catalog.PERSON)
    house.chain(DAY)
    (person,) = house.rows(catalog.PERSON)
    assert person["gender_concept_id"] == people[0]["gender_concept_id"] == 8507


def test_the_order_of_files_within_a_run_does_not_matter(make_house, write_dicom, tmp_path):
    """Of each source system the same files have other names."""
    files = {
        "a": one(StudyDescription="a", PatientID="P1"),
        "b": one(StudyInstanceUID="1.2.2", PatientID="P2"),
        "c": one(SeriesInstanceUID="1.2.1.2", StudyDescription="c"),
    }
    for name, elements in files.items():
        write_dicom(tmp_path / "made" / name, **elements)
    house = make_house(source_systems="*")
    orders = {"".join(names): names for names in permutations(files)}
    for system, names in orders.items():
        (house.drop / system).mkdir()
        for place, name in enumerate(names):
            target = house.drop / system / f"{place}.dcm"
            target.write_bytes((tmp_path / "made" / name).read_bytes())
            os.utime(target, (1_600_000_000, 1_600_000_000))
    house.chain()
    assert broken(house) == set()
    people = house.rows(catalog.PERSON)
    shown = house.rows(catalog.CONFLICTS)
    seen = [
        (
            {place[1:] for place in places(house) if place[0] == system},
            {series[1:] for series in gold(house) if series[0] == system},
            {row["person_source_value"] for row in people if row["sourceSystem"] == system},
            {
                (row["level"], row["attribute"], row["newerValue"], row["olderValue"])
                for row in shown
                if row["sourceSystem"] == system
            },
        )
        for system in orders
    ]
    assert all(seen[0]), "there is something of each"
    assert all(each == seen[0] for each in seen)


def test_a_lakehouse_without_the_table_takes_every_date_in(house, send):
    send(DAY)
    layout = house.run.engine.layout
    shutil.rmtree(layout.table("silver", "current_files"))
    send(NEXT, StudyInstanceUID="1.2.2")
    assert places(house) == {("default", "1.2.2", "1.2.1.1", "1.2.9")}
    assert broken(house, DAY, NEXT) == set()


def test_a_patient_whom_a_stopped_run_wrote_and_nobody_is_anymore_goes(house, write_dicom):
    """When another date changes whose the study is, and when the date itself does."""
    write_dicom(house.drop / "x.dcm", **study(1, PatientID="P1"))
    write_dicom(house.drop / "y.dcm", **study(2, PatientID="P5"))
    house.chain(LATER)
    write_dicom(house.drop / "x.dcm", **study(1, SOPInstanceUID="1.2.1.1.2", PatientID="P2"))
    write_dicom(house.drop / "y.dcm", **study(2, SOPInstanceUID="1.2.2.1.2", PatientID="P6"))
    write_dicom(house.drop / "z.dcm", **study(3, PatientID="P4"))
    house.chain(DAY, until="person")
    write_dicom(house.drop / "x.dcm", **study(1, SOPInstanceUID="1.2.1.1.3", PatientID="P3"))
    house.chain(NEXT)
    assert patients(house) == {"P2", "P3", "P4", "P5", "P6"}
    write_dicom(house.drop / "y.dcm", **study(2, SOPInstanceUID="1.2.2.1.3", PatientID="P7"))
    house.chain(DAY)
    assert patients(house) == {"P3", "P4", "P7"}
    assert broken(house, DAY, NEXT, LATER) == set()

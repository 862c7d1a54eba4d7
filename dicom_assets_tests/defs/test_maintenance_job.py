"""The maintenance job, as Dagster runs it."""

import dagster as dg

from dicom_assets.definitions import defs
from dicom_assets.defs.resources import Lakehouse
from dicom_assets.steps import catalog


def test_the_job_joins_files_and_says_so_without_patient_data(house, write_dicom):
    for number in range(3):
        write_dicom(house.drop / "Doe.dcm", StudyInstanceUID=f"1.2.{number}", PatientID="P99")
        house.chain()
    before = house.run.engine.read(catalog.IMAGE_OCCURRENCE, ["image_occurrence_id"]).num_rows
    with dg.DagsterInstance.ephemeral() as instance:
        done = (
            defs()
            .resolve_job_def("maintenance")
            .execute_in_process(
                instance=instance,
                resources={"lakehouse": Lakehouse(root=str(house.settings.lakehouse))},
            )
        )
        messages = [record.user_message for record in instance.all_logs(done.run_id)]
    assert done.success
    assert any("gold.Image_Occurrence: 3 files before, 1 after" in each for each in messages)
    assert not [each for each in messages if "P99" in each or "Doe" in each]
    assert house.run.engine.row_count(catalog.IMAGE_OCCURRENCE) == before == 3


def test_it_runs_once_a_week_and_a_comparison_once_a_month_when_switched_on():
    schedules = [each for each in defs().schedules or () if isinstance(each, dg.ScheduleDefinition)]
    assert {each.job_name: (each.cron_schedule, each.default_status) for each in schedules} == {
        "maintenance": ("0 3 * * 0", dg.DefaultScheduleStatus.RUNNING),
        "verify": ("0 4 1 * *", dg.DefaultScheduleStatus.STOPPED),
    }


def test_the_comparison_fails_with_counts_alone_when_something_does_not_agree(house, write_dicom):
    write_dicom(house.drop / "Doe.dcm", PatientID="P99")
    house.chain()
    job = defs().resolve_job_def("verify")
    resources = {"lakehouse": Lakehouse(root=str(house.settings.lakehouse))}
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance, resources=resources).success
        (stored,) = house.files("bronze/Files/Process/Imaging")
        stored.unlink()
        done = job.execute_in_process(instance=instance, resources=resources, raise_on_error=False)
        logged = " ".join(str(record) for record in instance.all_logs(done.run_id))
    assert not done.success
    assert "file_missing" in logged
    assert "P99" not in logged
    assert stored.name not in logged

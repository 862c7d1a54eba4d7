"""DICOM services in Dagster: when the sensor asks for a run, and what the asset does."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from dicom_assets.definitions import defs
from dicom_assets.defs import sensors
from dicom_assets.defs.automation import JOB_NAME, PULLED
from dicom_assets.defs.resources import DicomServices
from dicom_assets.dicomweb.client import Client
from dicom_assets_tests.conftest import dicom
from dicom_assets_tests.orthanc import PASSWORD, USER, Orthanc
from dicom_assets_tests.serving import free_port

DAY = "2026-03-14"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def services(tmp_path: Path) -> DicomServices:
    return DicomServices(root=str(tmp_path / "lakehouse"))


@pytest.fixture
def configured(orthanc: Orthanc, tmp_path: Path, monkeypatch) -> Orthanc:
    """An Orthanc that holds an instance, and is configured."""
    path = tmp_path / "a.dcm"
    dicom(path, SOPInstanceUID="1.2.3.4.1.1")
    with Client.of("orthanc", orthanc.service) as client:
        client.store([(path, path.stat().st_size)])
    for name, value in (
        ("ADDRESS", orthanc.service.address),
        ("USER", USER),
        ("PASSWORD", PASSWORD),
        ("ORTHANC_ADDRESS", orthanc.address),
    ):
        monkeypatch.setenv(f"DICOM_ASSETS_DICOM_SERVICES__PACS__{name}", value)
    return orthanc


@pytest.fixture
def evaluate(services, instance) -> Callable[..., dg.SensorResult]:
    def evaluated(cursor: str | None = None) -> dg.SensorResult:
        with dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            sensor_name="dicom_service_sensor",
            repository_def=defs().get_repository_def(),
            resources={"dicom_services": services},
        ) as context:
            result = sensors.dicom_service_sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    return evaluated


@pytest.fixture
def materialize(services, instance) -> Callable[..., dg.ExecuteInProcessResult]:
    def run() -> dg.ExecuteInProcessResult:
        return (
            defs()
            .resolve_job_def("pull_from_services")
            .execute_in_process(
                instance=instance,
                partition_key=DAY,
                resources={"dicom_services": services},
                raise_on_error=False,
            )
        )

    return run


def test_without_a_service_nothing_is_asked_for(evaluate):
    assert "no DICOM service is configured" in str(evaluate().skip_reason)


def test_news_ask_for_one_run_that_pulls_and_no_news_for_none(configured, evaluate, materialize):
    (request,) = evaluate().run_requests or []
    assert request.asset_selection is None, "the sensor's job says it"
    result = materialize()
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert (metadata["rows_written"].value, metadata["more"].value) == (1, 0)
    assert "| pacs | 1 |" in str(metadata["preview"].value)
    assert not evaluate().run_requests


def test_a_run_that_goes_on_is_not_doubled(configured, evaluate, instance):
    today = sensors.ingest_date.get_last_partition_key() or ""
    instance.create_run_for_job(
        defs().resolve_job_def("pull_from_services"),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/sensor_name": "dicom_service_sensor", "dagster/partition": today},
    )
    assert not evaluate().run_requests


def test_a_service_out_of_reach_does_not_keep_the_others_back(
    configured, evaluate, materialize, services, monkeypatch
):
    monkeypatch.setattr("dicom_assets.dicomweb.connection.ATTEMPTS", 1)
    gone = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("DICOM_ASSETS_DICOM_SERVICES__ARCHIVE__ADDRESS", gone)
    assert len(evaluate().run_requests or []) == 1
    result = materialize()
    assert not result.success
    (failure,) = result.get_step_failure_events()
    said = str(failure.event_specific_data)
    assert "the DICOM service archive" in said
    assert PASSWORD not in said
    pulled = Path(services.root, "bronze/Files/External/Imaging/DICOM/pacs")
    assert len(list(pulled.rglob("*.dcm"))) == 1
    skipped = evaluate()
    assert not skipped.run_requests
    assert "archive" in str(skipped.skip_reason)


def test_pulling_is_no_part_of_the_chain():
    layer = defs().resolve_job_def(JOB_NAME).asset_layer
    assert PULLED not in layer.selected_asset_keys
    assert len(layer.selected_asset_keys) >= 8

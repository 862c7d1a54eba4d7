"""The files of deploy/ agree with each other, with the package, and with the Spark they name."""

import json
import re
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._cli.api import grpc_command

from dicom_assets.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
FILES = {path.name: path.read_text() for path in sorted(DEPLOY.iterdir())}
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
)
VALUES: dict[str, Any] = yaml.safe_load(FILES["helm-values.yaml"])
(LOCATION,) = VALUES["dagster-user-deployments"]["deployments"]
OBJECTS = {each["kind"]: each for each in yaml.safe_load_all(FILES["kubernetes.yaml"])}
# what Kubernetes and the chart put in place of $(…)
KNOWN = {
    "POD_IP": "10.1.2.3",
    "POD_NAME": "pod",
    "POD_NAMESPACE": "dicom-assets",
    "DAGSTER_CURRENT_IMAGE": "registry.example/dicom-assets:0.1.0",
}


def chart_variables() -> dict[str, str]:
    """The variables of the code location, as its container sees them."""
    seen = {"DAGSTER_CURRENT_IMAGE": KNOWN["DAGSTER_CURRENT_IMAGE"]}
    for each in LOCATION["env"]:
        said = each.get("value", KNOWN.get(each["name"]))
        seen[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: seen[found[1]], said)
    return seen


@pytest.mark.parametrize("page", [*FILES, *PAGES])
def test_each_variable_that_is_named_is_a_setting(page):
    named = set(re.findall(r"DICOM_ASSETS_([A-Z_]*[A-Z])", (FILES | PAGES)[page]))
    known = {name.upper() for name in Settings.model_fields} | {"CONFIG", "NAME"}
    assert {each for each in named if not each.startswith("DICOM_SERVICES__")} <= known


def test_the_variables_of_the_chart_are_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("DICOM_ASSETS_CONFIG", str(tmp_path / "dicom_assets.toml"))
    (tmp_path / "dicom_assets.toml").touch()
    for name, value in chart_variables().items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    spark = settings.spark
    assert spark is not None
    assert str(settings.lakehouse) == "/mnt/imaging/lakehouse"
    assert spark.master == "k8s://https://kubernetes.default.svc:443"
    conf = dict(spark.conf)
    assert conf["spark.driver.host"] == KNOWN["POD_IP"]
    assert conf["spark.kubernetes.container.image"] == KNOWN["DAGSTER_CURRENT_IMAGE"]


def test_driver_and_executors_mount_the_same_claim_at_the_same_path():
    conf = json.loads(chart_variables()["DICOM_ASSETS_SPARK_CONF"])
    claim = OBJECTS["PersistentVolumeClaim"]["metadata"]["name"]
    volume = "spark.kubernetes.executor.volumes.persistentVolumeClaim.imaging"
    (mounted,) = LOCATION["volumes"]
    assert conf[f"{volume}.options.claimName"] == claim
    assert mounted["persistentVolumeClaim"]["claimName"] == claim
    assert conf[f"{volume}.mount.path"] == LOCATION["volumeMounts"][0]["mountPath"]
    assert OBJECTS["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_account_that_starts_executors_may():
    account = OBJECTS["ServiceAccount"]["metadata"]["name"]
    assert LOCATION["serviceAccount"]["name"] == account
    (subject,) = OBJECTS["RoleBinding"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": account}
    assert OBJECTS["RoleBinding"]["roleRef"]["name"] == OBJECTS["Role"]["metadata"]["name"]


def test_the_chart_keeps_what_dagster_yaml_says():
    ours = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    daemon = VALUES["dagsterDaemon"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert VALUES["telemetry"] == ours["telemetry"]
    assert queue == {
        "maxConcurrentRuns": ours["concurrency"]["runs"]["max_concurrent_runs"],
        "dequeueIntervalSeconds": ours["run_queue"]["dequeue_interval_seconds"],
    }
    assert daemon["runMonitoring"] == {
        "enabled": ours["run_monitoring"]["enabled"],
        "startTimeoutSeconds": ours["run_monitoring"]["start_timeout_seconds"],
        "pollIntervalSeconds": ours["run_monitoring"]["poll_interval_seconds"],
    }
    assert daemon["sensors"] == {
        "useThreads": ours["sensors"]["use_threads"],
        "numWorkers": ours["sensors"]["num_workers"],
    }
    assert VALUES["computeLogManager"]["type"] == ours["compute_logs"]["class"]
    assert VALUES["pythonLogs"] == {
        "pythonLogLevel": ours["python_logs"]["python_log_level"],
        "managedPythonLoggers": ours["python_logs"]["managed_python_loggers"],
    }


def test_dagster_takes_the_arguments_of_the_code_location():
    arguments = ["-h", "0.0.0.0", "-p", str(LOCATION["port"]), *LOCATION["dagsterApiGrpcArgs"]]  # noqa: S104 as the chart says
    context = grpc_command.make_context("grpc", arguments)
    assert find_spec(context.params["module_name"])


def test_versions_are_those_of_the_constraints():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)
    assert version
    page = PAGES["deploy.md"]
    assert LOCATION["image"]["tag"] == version[1]
    assert set(re.findall(r"dicom_assets-([\d.]+)-py3", page)) == {version[1]}
    for text in (page, FILES["helm-values.yaml"]):
        assert re.findall(r"dagster/dagster --version ([\d.]+)", text) == [CONSTRAINTS["dagster"]]
    for name in ("dagster-postgres", "pyspark", "delta-spark"):
        assert f'"{name}=={CONSTRAINTS[name]}"' in project
    assert set(re.findall(r"Spark (\d\.\d\.\d)", page)) == {CONSTRAINTS["pyspark"]}
    pom = (ROOT / "spark_jars/pom.xml").read_text()
    assert f"<version>{CONSTRAINTS['delta-spark']}</version>" in pom


def test_the_image_has_one_python_and_one_user():
    text = FILES["Dockerfile"]
    python = re.search(r"^ARG BASE=python:(\d\.\d+)-", text, re.MULTILINE)
    assert python
    assert f"/lib/python{python[1]}/site-packages/pyspark" in text
    user = LOCATION["podSecurityContext"]["fsGroup"]
    assert f"USER {user}:{user}" in text
    for each in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for name in each.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in FILES["Dockerfile.dockerignore"].splitlines()


def test_every_file_is_in_the_documentation_and_what_that_names_is_there():
    page = PAGES["deploy.md"]
    for name in FILES:
        assert name in page or name == "Dockerfile.dockerignore"
    for name in set(re.findall(r"deploy/([\w.-]+\w)", page)):
        assert (DEPLOY / name).exists()


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".sh")])
def test_scripts_can_be_run(name):
    shell = FILES[name].partition("\n")[0].removeprefix("#!")
    assert subprocess.run([shell, "-n", DEPLOY / name], check=False).returncode == 0
    assert (DEPLOY / name).stat().st_mode & 0o111


def test_the_image_runs_what_it_is_told_and_spark_s_executors(tmp_path):
    fake = tmp_path / "bin/java"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    variables = {
        "PATH": f"{fake.parent}:/usr/bin:/bin",
        "TMPDIR": str(tmp_path),
        "SPARK_HOME": "/spark",
        "SPARK_JAVA_OPT_0": "-Da=1 2",
        "SPARK_JAVA_OPT_1": "-Db=3",
        "SPARK_EXECUTOR_MEMORY": "4g",
        "SPARK_DRIVER_URL": "spark://driver",
        "SPARK_EXECUTOR_ID": "7",
        "SPARK_EXECUTOR_CORES": "4",
        "SPARK_APPLICATION_ID": "app",
        "SPARK_EXECUTOR_POD_IP": "10.0.0.7",
        "SPARK_EXECUTOR_POD_NAME": "pod-7",
        "SPARK_RESOURCE_PROFILE_ID": "0",
    }

    def said(*words: str) -> list[str]:
        command = [DEPLOY / "entrypoint.sh", *words]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert said("printf", "%s\n", "a b", "c") == ["a b", "c"]
    java = said("executor")
    assert java[:6] == ["-Da=1 2", "-Db=3", "-Xms4g", "-Xmx4g", "-cp", "/spark/jars/*"]
    options = dict(zip(java[7::2], java[8::2], strict=True))
    assert options["--driver-url"] == "spark://driver"
    assert (options["--executor-id"], options["--cores"]) == ("7", "4")
    assert (options["--hostname"], options["--podName"]) == ("10.0.0.7", "pod-7")


@pytest.mark.skipif(find_spec("pyspark") is None, reason="PySpark is not installed")
def test_each_setting_of_spark_that_is_named_is_one():
    named = set(re.findall(r'"(spark\.[\w.]+)":', FILES["helm-values.yaml"] + PAGES["deploy.md"]))
    named |= set(re.findall(r"^(spark\.[\w.]+)", FILES["spark-defaults.conf"], re.MULTILINE))
    assert len(named) > 15
    prefixes = ("spark.executorEnv.", "spark.kubernetes.executor.volumes.")
    named = {next((each for each in prefixes if name.startswith(each)), name) for name in named}
    spec = find_spec("pyspark")
    assert spec
    assert spec.origin
    jars = Path(spec.origin).parent / "jars"
    for jar in (*jars.glob("spark-core_*.jar"), *jars.glob("spark-kubernetes_*.jar")):
        with zipfile.ZipFile(jar) as opened:
            for entry in opened.namelist():
                if re.search(r"(internal/config/|deploy/k8s/Config|SparkConf)[^/]*\.class$", entry):
                    content = opened.read(entry)
                    named = {each for each in named if each.encode() not in content}
    assert not named, "Spark knows nothing of them"


def test_where_no_package_is_missing_none_is_installed():
    # as for Spark where Java and Maven are there
    done = subprocess.run([ROOT / ".ci/install-packages"], check=True, capture_output=True)
    assert done.stdout + done.stderr == b""

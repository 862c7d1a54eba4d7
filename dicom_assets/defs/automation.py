"""Automation: when assets run by themselves, and the job that runs the whole chain by hand.

The one condition: an asset runs for a date when what it depends on has news for that date, also for
late dates, and no blocking check before it has failed. The drop-folder sensor asks for its runs
itself (`sensors`); the condition follows what others materialize or report. What is pulled from
DICOM services is no part of the chain: a service out of reach must not hold up what was dropped.
"""

import dagster as dg

JOB_NAME = "drop_to_gold"
PULLED = dg.AssetKey(["bronze", "pulled_files"])

# what is dropped and what lies elsewhere come on dates of their own
_WAYS_IN = dg.AssetSelection.assets(["bronze", "process_files"], ["bronze", "external_files"])

when_upstream_has_news = (
    dg.AutomationCondition.eager()
    .without(dg.AutomationCondition.in_latest_time_window())
    .replace("any_deps_missing", dg.AutomationCondition.any_deps_missing().ignore(_WAYS_IN))
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
).with_label("when upstream has news")

automation_sensor = dg.AutomationConditionSensorDefinition(
    "automation_sensor",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=2,
)

drop_to_gold = dg.define_asset_job(
    JOB_NAME,
    selection=dg.AssetSelection.all() - dg.AssetSelection.assets(PULLED),
    description="The whole chain for one ingest date: drop folder to gold",
)

pull_from_services = dg.define_asset_job(
    "pull_from_services",
    selection=dg.AssetSelection.assets(PULLED),
    description="What is new in the configured DICOM services, into External",
)

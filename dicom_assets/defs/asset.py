"""What all assets have in common, said once.

Decided here: key by layer, group, owners and partitions of an asset, and its checks.
"""

from collections.abc import Callable, Sequence

import dagster as dg

from dicom_assets.defs.automation import when_upstream_has_news
from dicom_assets.defs.checks import check_specs
from dicom_assets.defs.errors import told_plainly
from dicom_assets.defs.metadata import table_metadata
from dicom_assets.defs.partitions import ingest_date
from dicom_assets.lakehouse.engine import Table


def layer_asset(
    asset: str,
    *,
    deps: Sequence[str],
    doc: str | None,
    kinds: set[str],
    table: Table | None = None,
    condition: dg.AutomationCondition | None = when_upstream_has_news,
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    """Returns the decorator of an asset; what breaks in it is told without patient data.

    Args:
        asset: `layer/name`.
        deps: Upstream assets, `layer/name`.
        doc: The catalogue text, usually the module's docstring.
        kinds: Technologies, shown as icons.
        table: The Delta table, when the asset is one.
        condition: When it runs by itself.
    """
    layer, name = asset.split("/")
    as_asset = dg.asset(
        key=[layer, name],
        deps=[dg.AssetKey(each.split("/")) for each in deps],
        description=doc,
        group_name=layer,
        kinds=kinds,
        owners=["team:imaging-data"],
        metadata=table_metadata(table) if table else None,
        partitions_def=ingest_date,
        automation_condition=condition,
        check_specs=check_specs(asset),
    )
    return lambda body: as_asset(told_plainly()(body))

"""What Dagster is told of an error: as everybody, and Dagster's own as they are.

Decided here: that its event log gets errors as `lakehouse.told` tells them.
"""

from functools import partial

import dagster as dg

from dicom_assets.lakehouse import told

told_plainly = partial(told.told_plainly, dg.DagsterError)
"""Lets through errors that hold no patient data; makes a StepError of every other one."""

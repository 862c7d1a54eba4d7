"""`dicom-assets` for spark-submit, which runs only files whose names end in `.py`."""

from dicom_assets.cli import command

command()

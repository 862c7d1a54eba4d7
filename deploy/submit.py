"""`dicom-assets` for spark-submit, which runs only files whose names end in `.py`."""

from dicom_assets.cli import main

main(prog_name="dicom-assets")

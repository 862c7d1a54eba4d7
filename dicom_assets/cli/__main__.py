"""`python -m dicom_assets.cli`."""

from dicom_assets.cli import command

command()

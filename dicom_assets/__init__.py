"""dicom_assets: DICOM files and FHIR reports to bronze, silver and gold Delta tables."""

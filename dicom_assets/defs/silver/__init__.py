"""Silver: flattened FHIR resources."""

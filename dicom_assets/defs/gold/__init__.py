"""Gold: OMOP tables."""

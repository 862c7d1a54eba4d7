"""Vocabulary: code → OMOP concept id.

Decided here: the defaults are `dicom_assets.terminology`; a site's Athena download overrides them
for the codes it has. A code that neither knows is 0, never a guess. Not decided here: which column
a concept goes to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.terminology import body_part_concepts, modality_concepts

NO_CONCEPT = 0
_FILE = "CONCEPT.csv"
_TYPES = {
    "concept_id": pa.int32(),
    "vocabulary_id": pa.string(),
    "standard_concept": pa.string(),
    "concept_code": pa.string(),
    "invalid_reason": pa.string(),
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Concept ids by code.

    Attributes:
        dicom: DICOM code, such as a modality → concept id of the DICOM vocabulary.
        snomed: SNOMED CT code → standard concept id.
    """

    dicom: Mapping[str, int]
    snomed: Mapping[str, int]

    @classmethod
    def default(cls) -> "Vocabulary":
        """Returns the vocabulary of `dicom_assets.terminology`."""
        return cls(modality_concepts(), body_part_concepts())

    @classmethod
    def from_athena(cls, folder: Path) -> "Vocabulary":
        """Reads an Athena vocabulary download, in batches.

        Takes the valid concepts of DICOM, and the valid standard ones of SNOMED.

        Args:
            folder: The folder that holds CONCEPT.csv.

        Raises:
            PlainError: There is no CONCEPT.csv, or it is not what Athena writes.
        """
        dicom, snomed = modality_concepts(), body_part_concepts()
        found: dict[str, dict[str, int]] = {"DICOM": {}, "SNOMED": {}}
        for vocabulary, code, concept in _concepts(folder / _FILE):
            known = found[vocabulary].setdefault(code, concept)
            if concept < known:  # several concepts have one code: always the same one
                found[vocabulary][code] = concept
        return cls({**dicom, **found["DICOM"]}, {**snomed, **found["SNOMED"]})

    def modality(self, code: str | None) -> int:
        """Returns the concept id of a DICOM modality, else 0."""
        return self.dicom.get(code, NO_CONCEPT) if code else NO_CONCEPT

    def snomed_concept(self, code: str | None) -> int:
        """Returns the standard concept id of a SNOMED CT code, else 0."""
        return self.snomed.get(code, NO_CONCEPT) if code else NO_CONCEPT


def _concepts(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yields vocabulary, code and concept id of the concepts that count."""
    from pyarrow import csv

    try:
        reader = csv.open_csv(
            path,
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=csv.ConvertOptions(
                include_columns=list(_TYPES), column_types=_TYPES, strings_can_be_null=False
            ),
        )
    except FileNotFoundError as error:
        raise PlainError(f"athena_vocabulary: there is no {path}") from error
    except (KeyError, pa.ArrowInvalid) as error:
        raise PlainError(
            f"athena_vocabulary: {path} is not a tab-separated Athena file with the columns "
            f"{', '.join(_TYPES)}: {error}"
        ) from error
    vocabulary, standard = pc.field("vocabulary_id"), pc.field("standard_concept")
    wanted = (vocabulary == "DICOM") | ((vocabulary == "SNOMED") & (standard == "S"))
    wanted &= pc.field("invalid_reason") == ""
    for batch in reader:
        valid = pa.Table.from_batches([batch]).filter(wanted)
        yield from zip(
            valid["vocabulary_id"].to_pylist(),
            valid["concept_code"].to_pylist(),
            valid["concept_id"].to_pylist(),
            strict=True,
        )

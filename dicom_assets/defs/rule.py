"""What a check is. Which there are is decided in `checks`, and for FHIR types in `fhir_rules`."""

from collections.abc import Callable
from dataclasses import dataclass

from dicom_assets.steps.reconcile import Day


@dataclass(frozen=True, slots=True)
class Rule:
    """One check.

    Attributes:
        asset: `layer/name` of the asset it belongs to.
        name: What must hold, as an identifier.
        description: The same in a sentence.
        evaluate: Counts of one date → (holds, numbers to show).
        blocking: Whether assets behind this one must not run when it does not hold.
    """

    asset: str
    name: str
    description: str
    evaluate: Callable[[Day], tuple[bool, dict[str, int]]]
    blocking: bool = True


def equal(**counts: int) -> tuple[bool, dict[str, int]]:
    """Holds when all counts are the same."""
    return len(set(counts.values())) == 1, counts


def none(**counts: int) -> tuple[bool, dict[str, int]]:
    """Holds when all counts are zero."""
    return not any(counts.values()), counts

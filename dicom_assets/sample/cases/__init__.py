"""The nine studies of the sample: who, when, on which machine, which series, which file names.

Decided here: everything a worklist or a file browser would show. How pictures are drawn is
decided in `phantoms`; how headers are completed, in `instances` and `modules`.
"""

from dicom_assets.sample.cases.nuclear import bone_scan, pet_ct
from dicom_assets.sample.cases.radiography import both_knees, chest_portable, chest_two_views
from dicom_assets.sample.cases.sonography import abdomen
from dicom_assets.sample.cases.tomography import ct_chest, ct_head, mr_head
from dicom_assets.sample.model import Study


def studies() -> tuple[Study, ...]:
    """The studies, in the order of their keys."""
    return (
        ct_head(),
        mr_head(),
        chest_two_views(),
        ct_chest(),
        both_knees(),
        abdomen(),
        pet_ct(),
        chest_portable(),
        bone_scan(),
    )

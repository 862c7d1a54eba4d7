"""What tests of the client share."""

from collections.abc import Iterator

import pytest

from dicom_assets_tests.dicomweb.front import Front, in_front_of
from dicom_assets_tests.orthanc import Orthanc


@pytest.fixture
def front(orthanc: Orthanc) -> Iterator[Front]:
    with in_front_of(orthanc) as started:
        yield started

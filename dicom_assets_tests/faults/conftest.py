"""What the tests of faults share: the process that runs what is killed."""

from collections.abc import Iterator

import pytest

from dicom_assets_tests.faults.nursery import Nursery
from dicom_assets_tests.faults.syscalls import unavailable


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    if why_not := unavailable():
        pytest.skip(why_not)
    found = Nursery()
    yield found
    found.close()

import subprocess
import sys

from pydicom import datadict
from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom._private_dict import private_dictionaries

from dicom_assets.dicom import dictionaries


def theirs(look_up, *asked) -> str | None:
    try:
        return look_up(*asked)
    except KeyError:
        return None


def test_every_standard_element_has_the_vr_that_pydicom_finds():
    repeated = [int(tag.replace("x", "2"), 16) for tag in RepeatersDictionary]
    odd = [0x00091001, 0x60010010, 0x00000000, 0x7FE00011, 0xFFFEE000, 0x60FE3000, 0x50003000]
    for tag in (*DicomDictionary, *repeated, *odd):
        assert dictionaries.standard_vr(tag) == theirs(datadict.dictionary_VR, tag), f"{tag:08X}"


def test_every_private_element_has_the_vr_that_pydicom_finds_in_any_block():
    for creator, rows in private_dictionaries.items():
        for text in rows:
            for block in ("10", "E1"):
                tag = int(text.replace("xxxx", f"09{block}").replace("xx", block), 16)
                expected = theirs(datadict.private_dictionary_VR, tag, creator)
                assert dictionaries.private_vr(tag, creator) == expected, f"{creator} {text}"
    assert dictionaries.private_vr(0x00091001, "nobody") is None


def test_looking_up_loads_the_tables_alone():
    script = (
        "import sys; from dicom_assets.dicom.vr import dictionary_vr, private_vr;"
        "assert dictionary_vr(0x00100020) == 'LO' and dictionary_vr(0x60023000) == 'OB or OW';"
        "assert private_vr(0x00191002, 'GEMS_ACQU_01') == 'SL';"
        "assert 'pydicom' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


WHILE_ANOTHER_THREAD_LOADS_PYDICOM = """
import sys, threading, time
from importlib.machinery import PathFinder

begun = threading.Event()

class Slow:
    def find_spec(name, path=None, target=None):
        if name != "pydicom._dicom_dict":
            return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module
        def slowly(module):
            begun.set()
            time.sleep(0.3)
            load(module)
        spec.loader.exec_module = slowly
        return spec

sys.meta_path.insert(0, Slow)
from dicom_assets.dicom.vr import dictionary_vr

other = threading.Thread(target=__import__, args=["pydicom"])
other.start()
begun.wait()
print(dictionary_vr(0x00100010))
other.join()
"""


def test_a_dictionary_that_another_thread_is_loading_is_waited_for():
    command = [sys.executable, "-c", WHILE_ANOTHER_THREAD_LOADS_PYDICOM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("PN\n", "")

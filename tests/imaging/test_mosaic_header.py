"""A mosaic can still be cut up after its private header, names and all, is gone."""

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config
from pydicom.dataset import Dataset

from imaging.deidentify import deidentify
from imaging.mosaic_header import csareader, tiles
from tests.imaging.files import real
from tests.imaging.identified import KEY, image, read, written


def mosaic(header: bytes) -> Dataset:
    """An image with a private header."""
    dataset = image(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header)
    return dataset


MOSAICS = [
    "dcm_qa/In/Orientation/ax/axasc35/MR.1.3.12.2.1107.5.2.32.35131.2014031012493950715786673",
    "dcm_qa_nih/In/20180918Si/mr_0003/epi_pe_ap-00001.dcm",
    "dcm_qa_sag/In/2_fmri_SagAP/0001_1.3.12.2.1107.5.2.43.67060.2024100913415219255705562.dcm",
    "dcm_qa_ts/In/1.dcm",
]


@pytest.mark.parametrize("file", MOSAICS)
def test_real_mosaics_keep_how_their_tiles_lie(file: str) -> None:
    """Read before and after by nibabel; of some ten kilobytes a few hundred bytes stay."""
    with config.disable_value_validation():
        original = pydicom.dcmread(real("dicom_vendor_zoo") / file)
        clean = read(written(deidentify(original, KEY)[0]))
    before, after = csareader.get_csa_header(original), csareader.get_csa_header(clean)

    assert csareader.get_n_mosaic(after) == csareader.get_n_mosaic(before) > 1
    np.testing.assert_allclose(
        csareader.get_slice_normal(after), csareader.get_slice_normal(before), atol=1e-7
    )
    assert list(after["tags"]) == ["NumberOfImagesInMosaic", "SliceNormalVector"]
    assert len(clean[0x00291010].value) < 400
    assert [int(tag) for tag in clean.keys() if tag.group == 0x0029] == [0x00290010, 0x00291010]  # noqa: SIM118


@given(st.binary(max_size=400), st.booleans())
def test_a_header_that_is_none_is_left_out(noise: bytes, marked: bool) -> None:  # noqa: FBT001
    assert list(tiles(mosaic((b"SV10\4\3\2\1" if marked else b"") + noise))) == []


def test_only_mosaics_have_tiles() -> None:
    assert list(tiles(image())) == []

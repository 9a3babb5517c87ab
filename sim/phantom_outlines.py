"""What the phantom's annotators have drawn, as they would export it: the tumour as DICOM SEG or RTSTRUCT.

    siemens, canon    Segmentation (PS3.3 A.51), binary, a frame for each slice with tumour in it
    ge, philips       RT Structure Set (PS3.3 A.19), contours half-way between the tumour's voxels and others

Each refers to the patient's first series. Written with pydicom alone: what reads them does so by other means.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from nibabel.nifti1 import load
from numpy.typing import NDArray
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.sequence import Sequence

from imaging.volume import LPS_TO_RAS, Volume
from sim.phantom import MODALITIES
from sim.phantom_dicom import VENDORS, decimals, file_of, header_of, place_of, uid_of

NAME, FOLDER = "tumour", "900"
READER = "PHANTOM^READER"
_BY_SEG = ("siemens", "canon")
_DIMENSIONS = (
    ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
    ("ImagePositionPatient", "PlanePositionSequence"),
)


def write_outlines(truth: Path, target: Path) -> None:
    """Write the tumour of every patient of a phantom federation beside their scans (`write_archive`)."""
    for place, site in enumerate(sorted(path for path in truth.iterdir() if path.is_dir())):
        for patient in sorted(path for path in site.iterdir() if path.is_dir()):
            image, series = load(patient / f"{NAME}.nii.gz"), _first_series(patient)
            volume = Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine))
            folder = target / site.name / patient.name / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            vendor, number = VENDORS[place % len(VENDORS)], f"{site.name}-{patient.name}"
            _file(volume, series, vendor, number).save_as(folder / "1.dcm", enforce_file_format=True)


def _first_series(patient: Path) -> str:
    return next(name for name in MODALITIES if (patient / f"{name}.nii.gz").exists())


def _file(volume: Volume, series: str, vendor: str, patient: str) -> Dataset:
    drawn_on = header_of(series, vendor, patient)
    header = Dataset()
    for element in drawn_on.group_dataset(0x0010):
        header.add(element)
    for keyword in ("SpecificCharacterSet", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID"):
        setattr(header, keyword, drawn_on[keyword].value)
    header.AccessionNumber = header.ReferringPhysicianName = header.PositionReferenceIndicator = ""
    header.Manufacturer = header.ManufacturerModelName = header.DeviceSerialNumber = vendor
    header.SoftwareVersions = "1"
    header.SeriesInstanceUID, header.SeriesNumber = uid_of(patient, NAME), int(FOLDER)
    by_seg = vendor in _BY_SEG
    body = _segmentation(volume, drawn_on) if by_seg else _structures(volume, drawn_on)
    header.SOPClassUID = uid.SegmentationStorage if by_seg else uid.RTStructureSetStorage
    return file_of(header, body, uid.ExplicitVRLittleEndian, 1)


def _reference(drawn_on: Dataset) -> Dataset:
    reference = Dataset()
    reference.SeriesInstanceUID = drawn_on.SeriesInstanceUID
    return reference


def _code(value: str, scheme: str, meaning: str) -> Sequence:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return Sequence([code])


# -- Segmentation ----------------------------------------------------------------------------


def _segmentation(volume: Volume, drawn_on: Dataset) -> Dataset:
    frames = np.flatnonzero(volume.values.any((0, 1)))
    stored = volume.values[:, :, frames].transpose(2, 1, 0).astype(np.uint8)
    body = Dataset()
    body.Modality, body.ImageType, body.ContentCreatorName = "SEG", ["DERIVED", "PRIMARY"], READER
    body.ContentLabel, body.ContentDescription, body.SegmentationType = "TUMOUR", "", "BINARY"
    body.ContentDate, body.ContentTime = drawn_on.StudyDate, drawn_on.StudyTime
    body.NumberOfFrames, body.Rows, body.Columns = stored.shape
    body.SamplesPerPixel, body.PhotometricInterpretation, body.LossyImageCompression = 1, "MONOCHROME2", "00"
    body.BitsAllocated, body.BitsStored, body.HighBit, body.PixelRepresentation = 1, 1, 0, 0
    body.PixelData = pack_bits(stored)
    body.FrameOfReferenceUID = drawn_on.FrameOfReferenceUID
    body.ReferencedSeriesSequence = Sequence([_reference(drawn_on)])
    body.SegmentSequence = Sequence([_segment()])
    body.SharedFunctionalGroupsSequence = Sequence([_shared(volume)])
    body.PerFrameFunctionalGroupsSequence = Sequence([_frame(volume, int(z)) for z in frames])
    organisation = Dataset()
    organisation.DimensionOrganizationUID = uid_of(drawn_on.SeriesInstanceUID, "dimensions")
    body.DimensionOrganizationSequence = Sequence([organisation])
    body.DimensionIndexSequence = Sequence([_dimension(organisation, *each) for each in _DIMENSIONS])
    return body


def _dimension(organisation: Dataset, keyword: str, group: str) -> Dataset:
    index = Dataset()
    index.DimensionOrganizationUID = organisation.DimensionOrganizationUID
    index.DimensionIndexPointer, index.FunctionalGroupPointer = (
        tag_for_keyword(keyword),
        tag_for_keyword(group),
    )
    return index


def _segment() -> Dataset:
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType = 1, NAME, "MANUAL"
    segment.SegmentDescription = READER
    segment.SegmentedPropertyCategoryCodeSequence = _code(
        "49755003", "SCT", "Morphologically Abnormal Structure"
    )
    segment.SegmentedPropertyTypeCodeSequence = _code("108369006", "SCT", "Neoplasm")
    return segment


def _shared(volume: Volume) -> Dataset:
    plane, measures, shared = Dataset(), Dataset(), Dataset()
    _, plane.ImageOrientationPatient, measures.PixelSpacing, step = place_of(volume.affine, 0)
    measures.SliceThickness = measures.SpacingBetweenSlices = step
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([measures])
    return shared


def _frame(volume: Volume, z: int) -> Dataset:
    position, content, segment, groups = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = place_of(volume.affine, z)[0]
    content.DimensionIndexValues, segment.ReferencedSegmentNumber = [1, z + 1], 1
    groups.PlanePositionSequence, groups.FrameContentSequence = Sequence([position]), Sequence([content])
    groups.SegmentIdentificationSequence = Sequence([segment])
    return groups


# -- Structure sets --------------------------------------------------------------------------


def _structures(volume: Volume, drawn_on: Dataset) -> Dataset:
    body, region, outline, observation = Dataset(), Dataset(), Dataset(), Dataset()
    body.Modality, body.StructureSetLabel, body.StructureSetName = "RTSTRUCT", "TUMOUR", READER
    body.OperatorsName, body.FrameOfReferenceUID = READER, drawn_on.FrameOfReferenceUID
    body.StructureSetDate, body.StructureSetTime = drawn_on.StudyDate, drawn_on.StudyTime
    body.ReferencedFrameOfReferenceSequence = Sequence([_frame_of_reference(drawn_on)])
    region.ROINumber, region.ROIName, region.ROIGenerationAlgorithm = 1, NAME, "MANUAL"
    region.ReferencedFrameOfReferenceUID = drawn_on.FrameOfReferenceUID
    outline.ReferencedROINumber = 1
    outline.ContourSequence = Sequence([_contour(points) for points in contours(volume)])
    observation.ObservationNumber = observation.ReferencedROINumber = 1
    observation.RTROIInterpretedType, observation.ROIInterpreter = "GTV", READER
    body.StructureSetROISequence, body.ROIContourSequence = Sequence([region]), Sequence([outline])
    body.RTROIObservationsSequence = Sequence([observation])
    return body


def _frame_of_reference(drawn_on: Dataset) -> Dataset:
    frame, study, series = Dataset(), Dataset(), _reference(drawn_on)
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # of a study, retired and still asked for
    study.ReferencedSOPInstanceUID = drawn_on.StudyInstanceUID
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.FrameOfReferenceUID = drawn_on.FrameOfReferenceUID
    frame.RTReferencedStudySequence = Sequence([study])
    return frame


def contours(volume: Volume) -> Iterator[NDArray[np.float64]]:
    """Yield closed lines around what is not 0, `(n, 3)` in mm in LPS; a hole is a line within a line."""
    lps = LPS_TO_RAS @ volume.affine
    for z in range(volume.values.shape[2]):
        plane = np.pad(volume.values[:, :, z].T > 0, 1).astype(float)  # rows, columns; nothing at the edge
        for line in contour_generator(z=plane).lines(0.5):
            corners = np.asarray(line)[:-1] - 1  # columns and rows; the last is the first
            points = np.column_stack([corners, np.full(len(corners), z), np.ones(len(corners))])
            yield (points @ lps.T)[:, :3]


def _contour(points: NDArray[np.float64]) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    contour.ContourData = decimals(points.ravel())
    return contour

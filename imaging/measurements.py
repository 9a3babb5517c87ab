"""What was measured, as DICOM: a Comprehensive SR by the template of measurement reports (PS3.16 TID 1500).

A group a segment, which refers to it in its DICOM SEG: its volume and how sure the model was. A group a
classification: each class's probability. Each group names the algorithm, and as the algorithm's
parameters which modalities it had, which it lacked, and how it was trained.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from imaging.derived import LONG_STRING, Classified, Segmented, Source, code, deriving, instance, label_of
from imaging.provenance import MANUFACTURER, PRODUCT, Provenance

ENTROPY = "Mean entropy"
BIT = Code("bit", "UCUM", "bit")

_OfRegion = sr.VolumetricROIMeasurementsAndQualitativeEvaluations
_OfImages = sr.MeasurementsAndQualitativeEvaluations
Group = _OfRegion | _OfImages


def write_report(
    path: Path,
    segmented: Mapping[str, tuple[Segmented, Dataset]],
    classified: Mapping[str, Classified],
    source: Source,
    made: Provenance,
) -> Dataset:
    """Write what was found of every head, a segmentation's with its DICOM SEG, and return the report."""
    with deriving():
        groups = [
            group
            for head, (found, seg) in segmented.items()
            for group in _segments(head, found, seg, source, made)
        ]
        groups += [_classes(head, found, source, made) for head, found in classified.items()]
        report = sr.ComprehensiveSR(
            evidence=[*source.headers, *(seg for _, seg in segmented.values())],
            content=_content(groups),
            is_complete=True,
            **instance(made, 1, f"Measurements by {made.model}"),
        )
        report.save_as(path, enforce_file_format=True)
    return report


def _content(groups: Sequence[Group]) -> sr.MeasurementReport:
    device = sr.DeviceObserverIdentifyingAttributes(
        hd.UID(), name=PRODUCT, manufacturer_name=MANUFACTURER, model_name=PRODUCT
    )
    observer = sr.ObserverContext(sr.CodedConcept(*codes.DCM.Device[:3]), device)
    return sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=observer),
        codes.SCT.ImagingProcedure,
        groups,
        title=codes.DCM.ImagingMeasurementReport,
    )


def _segments(head: str, found: Segmented, seg: Dataset, source: Source, made: Provenance) -> Iterator[Group]:
    """Yield a group for each class; one of which nothing was found has no frames that it could refer to."""
    for number, volume in enumerate(found.volumes_mm3, 1):
        label = label_of(head, number, len(found.volumes_mm3))
        measured: dict[str, Any] = {
            "tracking_identifier": sr.TrackingIdentifier(hd.UID(), label[:LONG_STRING]),
            "finding_type": code(label),
            "algorithm_id": _algorithm(made),
            "measurements": [
                sr.Measurement(codes.SCT.Volume, volume, codes.UCUM.CubicMillimeter),
                sr.Measurement(code(ENTROPY), found.entropy_bits, BIT),
            ],
        }
        if volume:
            series = sr.SourceSeriesForSegmentation(source.headers[0].SeriesInstanceUID)
            segment = sr.ReferencedSegment(seg.SOPClassUID, seg.SOPInstanceUID, number, source_series=series)
            yield _OfRegion(referenced_segment=segment, **measured)
        else:
            yield _OfImages(source_images=_images(source), **measured)


def _classes(head: str, found: Classified, source: Source, made: Provenance) -> Group:
    measurements = [
        sr.Measurement(code(what), value, codes.UCUM.NoUnits) for what, value in found.measures.items()
    ]
    if found.entropy_bits is not None:
        measurements.append(sr.Measurement(code(ENTROPY), found.entropy_bits, BIT))
    return _OfImages(
        sr.TrackingIdentifier(hd.UID(), head[:LONG_STRING]),
        finding_type=code(head),
        algorithm_id=_algorithm(made),
        measurements=measurements,
        source_images=_images(source),
    )


def _images(source: Source) -> list[sr.SourceImageForMeasurementGroup]:
    return [sr.SourceImageForMeasurementGroup.from_source_image(each) for each in source.headers]


def _algorithm(made: Provenance) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        made.model, made.recipe_hash, list(made.sentences), manufacturer=MANUFACTURER
    )

"""Six radiology reports as FHIR R4B DiagnosticReports, about studies of the sample.

Decided here: what the reports say and how they point to their study. They are plain JSON, one
resource a file and indented, as hospitals send them.
"""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dicom_assets.sample.model import Code, Study, uid

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
V2_TABLE = "http://terminology.hl7.org/CodeSystem/v2-{}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """One report.

    Attributes:
        case: Key of the study it is about.
        language: Language of its text.
        code: What was done, in LOINC.
        status: DiagnosticReport.status.
        effective: When the study was made, to the precision its header allows.
        issued: When the report was signed.
        radiologist: Who signed it.
        conclusion: The impression.
        text: The whole report, or None when only the impression was sent.
        finding: The impression as a SNOMED CT code, or None.
        bare_uid: Whether it names the study by the UID alone, without `urn:oid:`.
    """

    case: str
    language: str
    code: Code
    status: str = "final"
    effective: str
    issued: str
    radiologist: str
    conclusion: str
    text: str | None = None
    finding: Code | None = None
    bare_uid: bool = False


REPORTS = (
    Report(
        case="case1",
        language="de",
        code=Code("30799-1", "LN", "CT Head WO contrast"),
        effective="2024-03-11T21:45:03+01:00",
        issued="2024-03-11T22:20:41+01:00",
        radiologist="Dr. Sören Weiß",
        conclusion=(
            "Akutes Epiduralhämatom rechts parietal mit Mittellinienverlagerung nach links. "
            "Darüber Kalottenfraktur und Kopfschwartenhämatom."
        ),
        text=(
            "Klinik: Sturz von der Leiter, kurz bewusstlos.\n"
            "Technik: CT Schädel nativ, 5 mm, Hirn- und Knochenfenster, MPR koronar und sagittal.\n"
            "Befund: Bikonvexe hyperdense Raumforderung rechts parietal. Verlagerung der "
            "Mittellinie nach links. Basale Zisternen erhalten. Kalottenfraktur rechts parietal.\n"
            "Beurteilung: Akutes Epiduralhämatom rechts. Neurochirurgie telefonisch informiert."
        ),
        finding=Code("35566002", "SCT", "Hematoma"),
    ),
    Report(
        case="case2",
        language="ja",
        code=Code("24587-8", "LN", "MR Brain WO and W contrast IV"),
        effective="2024-04-22T09:30:12.250+09:00",
        issued="2024-04-22T13:05:00+09:00",
        radiologist="佐藤 健",
        conclusion=(
            "左前頭葉にリング状に造影される腫瘤を認める。周囲に浮腫を伴う。膠芽腫が疑われる。"
        ),
    ),
    Report(
        case="case3",
        language="en",
        code=Code("36643-5", "LN", "XR Chest 2 Views"),
        effective="2024-06-03T10:15:12.345-05:00",
        issued="2024-06-03T11:02:19-05:00",
        radiologist="Daniel Marsh, MD",
        conclusion="Nodule in the right upper lobe. CT of the chest is recommended.",
        text=(
            "HISTORY: Chest pain.\n"
            "TECHNIQUE: PA and lateral views of the chest.\n"
            "FINDINGS: A round nodule projects over the right upper lobe. Heart size is normal. "
            "No effusion. No pneumothorax.\n"
            "IMPRESSION: Nodule in the right upper lobe. CT of the chest is recommended."
        ),
        bare_uid=True,
    ),
    Report(
        case="case4",
        language="en",
        code=Code("29252-4", "LN", "CT Chest WO contrast"),
        status="amended",
        effective="2024-06-19",
        issued="2024-06-20T08:47:55-05:00",
        radiologist="Daniel Marsh, MD",
        conclusion=(
            "Solid, lobulated nodule of 25 mm in the right upper lobe, as seen on the radiograph "
            "of 3 June 2024. No enlarged lymph nodes. AMENDED: side corrected to right."
        ),
        finding=Code("27925004", "SCT", "Nodule"),
    ),
    Report(
        case="case5",
        language="fr",
        code=Code("36590-8", "LN", "XR Knee - bilateral AP and Lateral"),
        effective="2023-11-09",
        issued="2023-11-09T16:12:30+01:00",
        radiologist="Dr Hélène Dubois",
        conclusion=(
            "Gonarthrose fémoro-tibiale interne droite : pincement de l'interligne, ostéophytes "
            "et condensation sous-chondrale. Genou gauche sans particularité."
        ),
        finding=Code("239873007", "SCT", "Osteoarthritis of knee"),
    ),
    Report(
        case="case7",
        language="de",
        code=Code("81555-5", "LN", "PT+CT Whole body Tum loc W 18F-FDG IV"),
        status="preliminary",
        effective="2024-07-08T08:15:00+02:00",
        issued="2024-07-08T15:30:08+02:00",
        radiologist="Dr. Sören Weiß",
        conclusion=(
            "Stark stoffwechselaktive Raumforderung im rechten Oberlappen. Stoffwechselaktive "
            "mediastinale Lymphknoten, zwei Lebermetastasen, eine Knochenmetastase im linken "
            "Os ilium."
        ),
    ),
)


def reports(studies: Iterable[Study], *, seed: int) -> dict[str, dict[str, Any]]:
    """The resources, by file name."""
    by_key = {study.key: study for study in studies}
    return {
        f"report_{report.case}.json": _resource(report, by_key[report.case], seed=seed)
        for report in REPORTS
    }


def _resource(report: Report, study: Study, *, seed: int) -> dict[str, Any]:
    """A DiagnosticReport in the order of elements that FHIR lists them."""
    number = f"R{report.issued[:10].replace('-', '')}-{study.key.removeprefix('case')}"
    radiologist = {"type": "Practitioner", "display": report.radiologist}
    resource: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "id": number.lower(),
        "meta": {"versionId": "1", "lastUpdated": report.issued},
        "language": report.language,
        "identifier": [
            {"system": f"urn:oid:{uid(0, 'reports', study.institution)}", "value": number}
        ],
        "basedOn": [_order(study)],
        "status": report.status,
        "category": [
            {
                "coding": [
                    _coding(LOINC, Code("LP29684-5", "LN", "Radiology")),
                    _coding(V2_TABLE.format("0074"), Code("RAD", "", "Radiology")),
                ]
            }
        ],
        "code": {"coding": [_coding(LOINC, report.code)], "text": study.description},
        "subject": _subject(study),
        "effectiveDateTime": report.effective,
        "issued": report.issued,
        "performer": [{"type": "Organization", "display": study.institution}, radiologist],
        "resultsInterpreter": [radiologist],
        "imagingStudy": [_imaging_study(report, study, seed=seed)],
        "conclusion": report.conclusion,
    }
    if report.finding:
        resource["conclusionCode"] = [{"coding": [_coding(SNOMED, report.finding)]}]
    if report.text:
        resource["presentedForm"] = [
            {
                "contentType": "text/plain; charset=utf-8",
                "language": report.language,
                "data": b64encode(report.text.encode()).decode("ascii"),
                "title": study.description,
                "creation": report.issued,
            }
        ]
    return resource


def _coding(system: str, code: Code) -> dict[str, str]:
    return {"system": system, "code": code.value, "display": code.meaning}


def _order(study: Study) -> dict[str, Any]:
    """The order, known only by its accession number."""
    identifier: dict[str, Any] = {
        "type": {"coding": [_coding(V2_TABLE.format("0203"), Code("ACSN", "", "Accession ID"))]}
    }
    if study.accession_issuer:
        identifier["system"] = f"urn:oid:{study.accession_issuer[1]}"
    identifier["value"] = study.accession
    return {"type": "ServiceRequest", "identifier": identifier}


def _subject(study: Study) -> dict[str, Any]:
    """The patient, known only by the Patient ID."""
    identifier: dict[str, Any] = {"value": study.patient.identifier}
    if study.patient.issuer:
        identifier["assigner"] = {"display": study.patient.issuer}
    return {"type": "Patient", "identifier": identifier}


def _imaging_study(report: Report, study: Study, *, seed: int) -> dict[str, Any]:
    study_uid = uid(seed, study.key)
    value = study_uid if report.bare_uid else f"urn:oid:{study_uid}"
    return {
        "type": "ImagingStudy",
        "identifier": {"system": "urn:dicom:uid", "value": value},
        "display": study.description,
    }

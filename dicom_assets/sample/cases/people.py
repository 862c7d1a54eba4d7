"""The people, machines, hospitals and body parts that the studies share. None of them exists.

Decided here: which identifiers come with an issuer, and which character sets names need.
"""

from dicom_assets.sample.model import Code, Equipment, Patient, uid

HEAD = Code("69536005", "SCT", "Head")
BRAIN = Code("12738006", "SCT", "Brain")
CHEST = Code("43799004", "SCT", "Chest")
KNEE = Code("72696002", "SCT", "Knee")
KIDNEY = Code("64033007", "SCT", "Kidney")
WHOLE_BODY = Code("38266002", "SCT", "Entire body")

# who gives out accession numbers: its name, and its OID
NORDBURG = ("NORDBURG RIS", uid(0, "issuer", "Nordburg"))
HIKARI = ("HIKARI RIS", uid(0, "issuer", "Hikari"))

MUELLER = Patient(
    identifier="NB-100471",
    name="Müller^Jörg^^Dr.",
    character_set="ISO_IR 100",
    sex="M",
    birth_date="19670314",
    issuer="NORDBURG",
)
YAMADA = Patient(
    identifier="HK-0088213",
    name="Yamada^Tarou=山田^太郎=やまだ^たろう",
    character_set=["", "ISO 2022 IR 87"],
    sex="M",
    birth_date="19580902",
    issuer="HIKARI",
)
OKAFOR = Patient(identifier="71350", name="Okafor^Grace", sex="F", birth_date="19521121")
LEFEVRE = Patient(
    identifier="PX-20417",
    name="Lefèvre^François",
    character_set="ISO_IR 100",
    sex="M",
    birth_date="19490605",
)
SOTO = Patient(identifier="88-1204-C", name="Soto^Maria^Elena", sex="F", birth_date="19830119")
WOJCIK = Patient(
    identifier="NB-100982",
    name="Wójcik^Łucja",
    character_set="ISO_IR 192",
    sex="F",
    birth_date="19600728",
    issuer="NORDBURG",
)
HALVORSEN = Patient(
    identifier="NB-099310",
    name="Halvorsen^Nils",
    sex="M",
    birth_date="19480210",
    issuer="NORDBURG",
)

HELIX = Equipment(
    manufacturer="Northlight Imaging",
    model="Helix 64",
    serial="NL-40417",
    software="HX 5.2.1",
    station="CT1",
    private_creator="NORTHLIGHT CT 1.0",
)
LARMOR = Equipment(
    manufacturer="Northlight Imaging",
    model="Larmor 3T",
    serial="NL-71002",
    software="LM 11.0",
    station="MR2",
    private_creator="NORTHLIGHT MR 1.0",
)
FUSION = Equipment(
    manufacturer="Northlight Imaging",
    model="Fusion PET/CT",
    serial="NL-90012",
    software="FX 3.1",
    station="PETCT1",
    private_creator="NORTHLIGHT PET 2.0",
)
FLATPLANE = Equipment(
    manufacturer="Okular Systems",
    model="FlatPlane DR-7",
    serial="OK-5531",
    software="7.4",
    station="DXROOM3",
)
PLATE_READER = Equipment(
    manufacturer="Okular Systems",
    model="PlateReader 2",
    serial="OK-1179",
    software="2.9.0",
    station="CRREADER",
)
ECHO = Equipment(
    manufacturer="Sonovia",
    model="Echo E9",
    serial="SV-000812",
    software="4.0.3",
    station="US4",
)
ANGER = Equipment(
    manufacturer="Gammaworks",
    model="Anger Duo",
    serial="GW-2044",
    software="9.1",
    station="NM1",
)

"""Settings: every choice a site can make, in one place.

Read from environment variables (`DICOM_ASSETS_<NAME>`), then from a TOML file
(`DICOM_ASSETS_CONFIG`, default `dicom_assets.toml` in the repository), then the defaults below.
Not decided here: what a choice does; the modules that take it say so.
"""

import os
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as UnreadableSetting

from dicom_assets.dicomweb.service import Service
from dicom_assets.lakehouse.errors import PlainError
from dicom_assets.lakehouse.far import FarPath
from dicom_assets.lakehouse.layout import (
    DEFAULT_SOURCE_SYSTEM,
    OPERATIONS_FOLDER,
    is_safe_name,
)
from dicom_assets.lakehouse.promoted import PromotedTag, promoted_tags
from dicom_assets.lakehouse.spark_session import Spark
from dicom_assets.lakehouse.storage import Storage, check_address, lakehouse_address

GIB = 1024**3
_PREFIX = "DICOM_ASSETS_"
# would be taken for no namespace, for a year, for corrections, or for an archive (retried members)
_NO_NAMESPACE = re.compile(rf"default|\d{{4}}|{OPERATIONS_FOLDER}|.*!", re.DOTALL)

# so that the environment, whose letters' case does not count, can name it
_SERVICE_NAME = re.compile(r"[a-z](?:[a-z0-9-]|_(?!_)){0,63}")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")


def home() -> Path:
    """Returns where defaults lie: the repository, or the working folder of an installed package."""
    repository = Path(__file__).parent.parent
    return repository if (repository / "workspace.yaml").exists() else Path.cwd()


def dagster_folder() -> Path:
    """Returns where Dagster keeps its runs: DAGSTER_HOME, by default `.dagster` beside the data."""
    chosen = os.environ.get("DAGSTER_HOME")
    return Path(chosen).absolute() if chosen else home() / ".dagster"


class SettingsError(PlainError):
    """A setting is wrong. The message names it, says why and where it was read from."""


class Settings(BaseSettings):
    """What a site can choose. Sizes are bytes, times seconds."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # a traceback would show secrets
    )

    lakehouse: Path = Field(
        default_factory=lambda: home() / "data/lakehouse",
        description="root of the lakehouse: a folder, or abfss://…, az://…, s3://…, gs://…",
    )
    site_timezone: str | None = Field(
        default=None, description="IANA zone of times without offset, for example Europe/Zurich"
    )
    source_systems: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="first-level drop folders that are namespaces; * means all"
    )
    patient_id_system: str | None = Field(
        default=None, description="URI of the Patient ID's identifier system"
    )
    accession_number_system: str | None = Field(
        default=None, description="URI of the accession number's identifier system"
    )
    dicomweb_base_address: str | None = Field(
        default=None, description="base address of a DICOMweb service, without /studies"
    )
    dicom_services: dict[str, Service] = Field(
        default={}, description="DICOM services, by the namespace that their instances come under"
    )
    compress: bool = Field(default=True, description="one ZIP per DICOM file after extraction")
    compression_level: int = Field(
        default=1, ge=1, le=9, description="deflate level of those ZIPs, 1 fast to 9 small"
    )
    promoted_tags: dict[str, str] = Field(
        default={}, description="further promoted tags: keyword or tag = column name"
    )
    engine: Literal["local", "spark"] = Field(
        default="local", description="who works: this machine, or Spark (docs/spark.md)"
    )
    spark_master: str | None = Field(
        default=None,
        description="Spark's master URL; without it what the surroundings say, spark-submit's say",
    )
    spark_jars: Path | None = Field(
        default=None, description="folder of Delta's jars for Spark, where Maven is out of reach"
    )
    spark_conf: dict[str, str] = Field(default={}, description="further settings of Spark")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="threads or processes at work",
    )
    settle_seconds: float = Field(
        default=2.0,
        ge=0,
        allow_inf_nan=False,
        description="a dropped file unchanged for so long is complete",
    )
    max_file_bytes: int = Field(
        default=16 * GIB, ge=1, description="largest DICOM file or archive member"
    )
    max_header_bytes: int = Field(
        default=64 * 1024**2, ge=1 << 16, description="longest DICOM header, without pixels"
    )
    archive_max_depth: int = Field(
        default=5, ge=1, description="how many archives may lie inside each other"
    )
    archive_max_ratio: float = Field(
        default=250.0,
        ge=1,
        allow_inf_nan=False,
        description="an archive past 1 GiB may expand at most so many times",
    )
    archive_max_bytes: int = Field(
        default=256 * GIB, ge=1, description="what one dropped archive may expand to"
    )
    archive_max_members: int = Field(
        default=1_000_000, ge=1, description="how many members one dropped archive may have"
    )
    keep_removed_files_days: int = Field(
        default=30, ge=0, description="how long files that are of no table any more are kept"
    )
    storage: dict[str, dict[str, SecretStr]] = Field(
        default={}, description="address = options of what lies there, credentials among them"
    )
    external_max_files: int | None = Field(
        default=None, ge=1, description="so many files of External are taken in by one run"
    )
    fhir_resource_types: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("DiagnosticReport",),
        description="FHIR resource types, beside ImagingStudy, that get tables",
    )
    fhir_validation: Literal["lenient", "strict"] = Field(
        default="lenient",
        description="whether invalid FHIR resources are kept, with what is wrong, or failures",
    )
    omop_person: bool = Field(default=True, description="write gold/person")
    omop_procedure_occurrence: bool = Field(
        default=True, description="write gold/procedure_occurrence"
    )
    person_crosswalk: Path | None = Field(
        default=None, description="CSV: source_system, person_source_value, person_id"
    )
    visit_crosswalk: Path | None = Field(
        default=None,
        description="CSV: source_system, accession_number or study_uid, visit_occurrence_id",
    )
    athena_vocabulary: Path | None = Field(
        default=None, description="folder of an Athena vocabulary download (CONCEPT.csv)"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over the TOML file."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=config_file())
        return init_settings, env_settings, toml

    @field_validator("lakehouse", mode="plain")
    @classmethod
    def _root(cls, value: Any) -> Path:
        if not isinstance(value, str | Path):
            raise ValueError("must be a folder, or an address such as s3://bucket/lake")
        if not str(value):
            raise ValueError("must not be empty")
        if ":/" in str(value):
            return FarPath(lakehouse_address(str(value)))
        root = Path(value).expanduser().absolute()
        if _ESCAPE.search(str(root)):
            raise ValueError(
                f"{root} has a % before two digits or letters a to f, which tables take for one"
                " character; it must be another folder"
            )
        _checked(root, _can_be_folder, "is a file or lies below one; it must be a folder")
        return root

    @field_validator("patient_id_system", "accession_number_system")
    @classmethod
    def _uri(cls, value: str | None) -> str | None:
        if value is not None and not _URI.fullmatch(value):
            raise ValueError("must be a URI, such as urn:oid:1.2.3 or https://hospital.example/mrn")
        return value

    @field_validator("dicomweb_base_address")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^/\s]\S*", value):
            raise ValueError("must be an address, such as https://pacs.example/dicom-web")
        if value is not None and "@" in urlsplit(value).netloc:
            raise ValueError("must be an address without user: it stands in tables")
        return value

    @field_validator("source_systems", "fhir_resource_types", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return (
            [n.strip() for n in value.split(",") if n.strip()] if isinstance(value, str) else value
        )

    @field_validator("source_systems")
    @classmethod
    def _namespaces(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _may_be_namespace(name) and name != "*":
                raise ValueError(
                    f"{name!r} cannot be a namespace: 127 bytes at most, no slash, none of"
                    ' \\:*?"<>|%, no control character, no dot or blank at either end, no year,'
                    f" not 'default' or '{OPERATIONS_FOLDER}'"
                )
        return value

    @field_validator("dicom_services")
    @classmethod
    def _service_names(cls, value: dict[str, Service]) -> dict[str, Service]:
        for name in value:
            if not _SERVICE_NAME.fullmatch(name) or not _may_be_namespace(name):
                raise ValueError(
                    f"{name!r} cannot be a service's name: small letters, digits, - and single _,"
                    " beginning with a letter"
                )
        return value

    @field_validator("fhir_resource_types")
    @classmethod
    def _types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name in ("ImagingStudy", "DiagnosticReport"):
                continue  # known without the model, which takes time to load
            from dicom_assets.fhir.model import is_resource_type

            if name == "Bundle":
                raise ValueError("a Bundle stands for what is in it: name the types of its entries")
            if not is_resource_type(name):
                raise ValueError(f"{name!r} is no FHIR R4B resource type")
        # ImagingStudy has its tables anyway
        return tuple(name for name in dict.fromkeys(value) if name != "ImagingStudy")

    @field_validator("site_timezone")
    @classmethod
    def _zone(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError, OSError) as error:
                raise ValueError("must be an IANA time zone such as Europe/Zurich") from error
        return value

    @field_validator("storage")
    @classmethod
    def _addresses(cls, value: dict[str, dict[str, SecretStr]]) -> dict[str, dict[str, SecretStr]]:
        for address in value:
            check_address(address)
        return value

    @field_validator("promoted_tags")
    @classmethod
    def _known_tags(cls, value: dict[str, str]) -> dict[str, str]:
        from dicom_assets.dicom.elements import is_excluded

        for tag in promoted_tags(value):
            if is_excluded(int(tag.tag, 16)):
                raise ValueError(f"{tag.keyword} is left out of headers: its column stays empty")
        return value

    @field_validator("person_crosswalk", "visit_crosswalk")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        return _checked(value, Path.is_file, "is no file")

    @field_validator("athena_vocabulary", "spark_jars")
    @classmethod
    def _is_folder(cls, value: Path | None) -> Path | None:
        return _checked(value, Path.is_dir, "is no folder")

    @field_validator("athena_vocabulary")
    @classmethod
    def _is_vocabulary(cls, value: Path | None) -> Path | None:
        return _checked(value, lambda path: (path / "CONCEPT.csv").is_file(), "has no CONCEPT.csv")

    @model_validator(mode="after")
    def _connect(self) -> Self:
        if isinstance(self.lakehouse, FarPath):
            if self.engine == "spark":
                raise ValueError(
                    "engine: Spark's executors reach a lakehouse in a folder that all machines"
                    " share, not yet one in an object store; set `engine = local`, or mount it"
                )
            self.lakehouse.connect(self.stores.options(str(self.lakehouse)))
        return self

    @cached_property
    def stores(self) -> Storage:
        """What External may be read from."""
        sections = {
            address: {name: secret.get_secret_value() for name, secret in options.items()}
            for address, options in self.storage.items()
        }
        return Storage(self.lakehouse, sections)

    @cached_property
    def spark(self) -> Spark | None:
        """Where Spark is; None where this machine works."""
        if self.engine == "local":
            return None
        return Spark(self.spark_master, self.spark_jars, tuple(sorted(self.spark_conf.items())))

    @cached_property
    def promoted(self) -> tuple[PromotedTag, ...]:
        """The standard promoted tags and the configured ones."""
        return promoted_tags(self.promoted_tags)

    def is_namespace(self, folder: str) -> bool:
        """Says whether a first-level drop folder names a source system."""
        return folder in (*self.source_systems, *self.dicom_services) or (
            "*" in self.source_systems and _may_be_namespace(folder)
        )

    def shown_namespace(self, name: str) -> str:
        """Returns a namespace that the site has chosen; `other` for one that a folder's name made.

        With `source_systems = *` anybody who drops files makes namespaces, of persons' names too.
        """
        chosen = (*self.source_systems, *self.dicom_services, DEFAULT_SOURCE_SYSTEM)
        return name if name in chosen else "other"


def _checked(path: Path | None, is_right: Callable[[Path], bool], wrong: str) -> Path | None:
    """Returns a path, where it is given, of which the file system says what it must.

    Raises:
        ValueError: It says otherwise, `wrong`, or nothing.
    """
    try:
        if path is None or is_right(path):
            return path
    except OSError as error:
        raise ValueError(f"{path} cannot be looked at: {error.strerror}") from error
    raise ValueError(f"{path} {wrong}")


def _can_be_folder(path: Path) -> bool:
    there = (each for each in (path, *path.parents) if each.exists() or each.is_symlink())
    return next(there).is_dir()


def _may_be_namespace(name: str) -> bool:
    return is_safe_name(name) and not _NO_NAMESPACE.fullmatch(name)


def config_file() -> Path:
    """Returns the TOML file settings are read from; it need not exist."""
    return Path(os.environ.get(f"{_PREFIX}CONFIG") or home() / "dicom_assets.toml")


def load_settings(**overrides: Any) -> Settings:
    """Reads the settings.

    Args:
        overrides: Values that win over environment and file; None means not given.

    Raises:
        SettingsError: A value is invalid or unknown, or the TOML file cannot be parsed.
    """
    import tomllib

    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{_PREFIX}CONFIG"}
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith(_PREFIX)
        and name not in known
        and not name.startswith(f"{_PREFIX}DICOM_SERVICES__")
    )
    if unknown:
        raise SettingsError(f"{unknown[0]}: no such setting; known are {', '.join(sorted(known))}")
    if f"{_PREFIX}CONFIG" in os.environ and not config_file().is_file():
        raise SettingsError(f"{_PREFIX}CONFIG names {config_file()}, which is no file")
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config_file()} is not valid TOML: {error}") from error
    except UnreadableSetting as error:
        raise SettingsError(f"{error}; write lists and tables as JSON") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{place}: {each['msg'].removeprefix('Value error, ').removeprefix(f'{place}: ')}"
            for each in error.errors()
            for place in [".".join(map(str, each["loc"]))]
        )
        raise SettingsError(
            f"wrong setting ({_PREFIX}… in the environment or {config_file()}): {problems}"
        ) from error

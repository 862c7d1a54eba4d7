"""A DICOM service as a site states it: where it is, and what proves who asks.

Decided here: which statements belong together. Not decided here: where they are read from
(`dicom_assets.settings`), or how they are used (`connection`, `feeds`).
"""

import re
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

_ADDRESS = re.compile(r"https?://[^/\s@]+(/[^\s?#]*)?")


def _has_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0 and address.isprintable()
    except ValueError:  # its port, or its brackets
        return False


class Service(BaseModel):
    """One DICOM service. Secrets show as stars wherever it is printed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    address: str = Field(description="DICOMweb base address, without /studies")
    user: str | None = Field(default=None, description="basic authentication: the user")
    password: SecretStr | None = Field(default=None, description="and the password")
    token_address: str | None = Field(
        default=None, description="OAuth2 client credentials: the token endpoint"
    )
    client_id: str | None = Field(default=None, description="the client's id")
    client_secret: SecretStr | None = Field(default=None, description="and its secret")
    scope: str | None = Field(default=None, description="what the token is asked for")
    orthanc_address: str | None = Field(
        default=None, description="of an Orthanc: its REST root, whose /changes tell what is new"
    )

    @field_validator("address", "token_address", "orthanc_address")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _ADDRESS.fullmatch(value) or not _has_host(value):
            raise ValueError("must be an address without user, such as https://pacs.example/dicom")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _belongs_together(self) -> "Service":
        basic = (self.user, self.password)
        client = (self.token_address, self.client_id, self.client_secret)
        for given in (basic, client):
            if any(given) and not all(given):
                raise ValueError(
                    "user goes with password, and token_address with client_id and client_secret"
                )
        if any(basic) and any(client):
            raise ValueError("either user and password, or client credentials, not both")
        if self.scope and not any(client):
            raise ValueError("scope goes with token_address, client_id and client_secret")
        return self

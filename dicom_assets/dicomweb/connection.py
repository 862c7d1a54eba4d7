"""One service's connection: who asks, how long is waited, what is tried again.

Decided here: time limits, retries with back-off, authentication, and how what went wrong is told:
by what was asked for and the status, never with an address that holds UIDs, and never with a
secret. Not decided here: what is asked for (`client`, `feeds`).
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from dicom_assets.dicomweb.multipart import MultipartError
from dicom_assets.dicomweb.service import Service
from dicom_assets.lakehouse.errors import PlainError

ATTEMPTS = 5
AT_ONCE = 8
"""Requests that are under way at the same time, at most."""
_TIMEOUT = httpx.Timeout(120.0, connect=10.0)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
BROKEN = 0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_EXPIRES_EARLY = 60

_LOG = logging.getLogger(__name__)
# they log every address, and addresses hold UIDs
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

T = TypeVar("T")


class ServiceError(PlainError):
    """A DICOM service did not do what was asked. The message names no patient and no UID.

    Attributes:
        status: The HTTP status it answered with; None where it is out of reach, `BROKEN` where its
            answer is none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        """Says what went wrong."""
        super().__init__(message)
        self.status = status

    @property
    def is_of_the_service(self) -> bool:
        """Whether nothing else would succeed either: it is out of reach, or lets nobody in."""
        return self.status in (None, 401, 403)


class Passing(Exception):
    """An answer that may be another one soon; says so to `persist`."""

    def __init__(self, status: int, pause: float | None) -> None:
        """Takes the status, and for how long the service asks to wait."""
        super().__init__(status)
        self.status, self.pause = status, pause


class _NoToken(Exception):
    """The token endpoint is out of reach; it may be in reach soon."""


class Connection:
    """Sends requests to one service. May be used by several threads."""

    def __init__(self, name: str, service: Service, *, pause: float = _FIRST_PAUSE) -> None:
        """Opens nothing yet.

        Args:
            name: What the site calls the service.
            service: The service.
            pause: Seconds before what failed is tried a second time; each further time twice that.
        """
        self.name, self.service, self._pause = name, service, pause
        self._client = httpx.Client(
            auth=_auth(service),
            timeout=_TIMEOUT,
            limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE),
            # pixels compress badly: an Orthanc spends ten times as long on gzip as on the rest
            headers={"Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        """Closes what is open."""
        self._client.close()

    @contextmanager
    def answer(self, method: str, address: str, **request: Any) -> Iterator[httpx.Response]:
        """Sends a request once and yields the answer, its content not read yet.

        Raises:
            Passing: It may be another one soon; `persist` tries again.
            httpx.RequestError: There was none, or not all of it, or it cannot be decoded.
        """
        with self._client.stream(method, address, **request) as response:
            if response.status_code in _PASSING:
                raise Passing(response.status_code, _asked_pause(response))
            yield response

    def persist(self, what: str, act: Callable[[], T]) -> T:
        """Does something that asks the service, several times if need be.

        Args:
            what: What is asked for, for messages: `WADO-RS`.
            act: Asks by `answer`, and may be done again from its beginning.

        Raises:
            ServiceError: It did not succeed in time; nor can it, when the status says so.
        """
        pause, status, has_token = self._pause, None, True
        for attempt in range(1, ATTEMPTS + 1):
            wait, has_token = None, True
            try:
                return act()
            except _NoToken:
                status, has_token = None, False
            except Passing as error:
                status, wait = error.status, error.pause
            except (httpx.ConnectError, httpx.ConnectTimeout):
                status = None
            except httpx.InvalidURL:
                raise ServiceError(
                    f"the DICOM service {self.name} cannot be asked for {what}: what is asked for"
                    " makes no address; check its settings, and the UIDs that it states",
                    BROKEN,
                ) from None
            except (httpx.RequestError, MultipartError):
                status = BROKEN
            if attempt < ATTEMPTS:
                _LOG.info("%s: %s is tried again, attempt %s", self.name, what, attempt + 1)
                spread = pause * (0.5 + random.random())  # noqa: S311 no secret
                time.sleep(min(_LONGEST_PAUSE, spread if wait is None else wait))
                pause *= 2
        if not has_token:
            raise ServiceError(
                f"the DICOM service {self.name} cannot be asked for {what}: its token endpoint"
                " cannot be reached; check token_address, and the network"
            )
        raise self._error(what, status)

    def json(self, what: str, address: str, **request: Any) -> Any:
        """Gets JSON; None where there is nothing (204, 404).

        Raises:
            ServiceError: It answers something else.
        """
        method = request.pop("method", "GET")

        def act() -> Any:
            with self.answer(method, address, **request) as response:
                if response.status_code in (204, 404):
                    return None
                self.check(what, response)
                response.read()
                try:
                    return response.json()
                except (ValueError, RecursionError):
                    raise ServiceError(
                        f"{self.name}: {what} is answered with no JSON", 200
                    ) from None

        return self.persist(what, act)

    @contextmanager
    def understood(self, what: str) -> Iterator[None]:
        """Reads what an answer says.

        Raises:
            ServiceError: It is not what was asked for.
        """
        try:
            yield
        except PlainError:  # which is a ValueError
            raise
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError):
            raise ServiceError(
                f"the DICOM service {self.name}, asked for {what}, answers something else; check"
                " that its address is that of the service itself",
                BROKEN,
            ) from None

    def check(self, what: str, response: httpx.Response) -> None:
        """Lets an answer pass that is one.

        Raises:
            ServiceError: It is an error's, or leads elsewhere.
        """
        if not response.is_success:
            raise self._error(what, response.status_code)

    def _error(self, what: str, status: int | None) -> ServiceError:
        if status is None:
            said = "cannot be reached; look whether it runs at its address"
        elif status == BROKEN:
            said = "breaks off, or answers something else; look into its log"
        elif status in (401, 403):
            said = f"refuses it ({status}); check user and password, or the client and its rights"
        elif status in _PASSING:
            said = f"still answers {status} after {ATTEMPTS} attempts; look into its log"
        else:
            said = f"answers {status}"
        return ServiceError(f"the DICOM service {self.name}, asked for {what}, {said}", status)


def _asked_pause(response: httpx.Response) -> float | None:
    """Returns for how long the service asks to wait (Retry-After), if it does."""
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _auth(service: Service) -> httpx.Auth | None:
    if service.user and service.password:
        return httpx.BasicAuth(service.user, service.password.get_secret_value())
    return _ClientCredentials(service) if service.token_address else None


class _ClientCredentials(httpx.Auth):
    """OAuth2 client credentials (RFC 6749 section 4.4): a token for all threads, until it ends."""

    requires_response_body = False

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._token, self._ends = "", 0.0

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        token = self._valid()
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        # it may have been withdrawn; a body that was streamed cannot be sent twice
        if response.status_code == 401 and request.method == "GET":
            request.headers["Authorization"] = f"Bearer {self._valid(instead_of=token)}"
            yield request

    def _valid(self, *, instead_of: str = "") -> str:
        with self._lock:
            if time.monotonic() >= self._ends or self._token == instead_of:
                self._token, seconds = self._asked()
                self._ends = time.monotonic() + max(0.0, seconds - _EXPIRES_EARLY)
            return self._token

    def _asked(self) -> tuple[str, float]:
        service = self._service
        assert service.token_address and service.client_secret  # noqa: S101 by its validator
        form = {
            "grant_type": "client_credentials",
            "client_id": service.client_id,
            "client_secret": service.client_secret.get_secret_value(),
        }
        if service.scope:
            form["scope"] = service.scope
        try:
            response = httpx.post(service.token_address, data=form, timeout=_TIMEOUT)
        except (httpx.RequestError, httpx.InvalidURL):
            raise _NoToken from None
        if response.status_code in _PASSING:
            raise Passing(response.status_code, _asked_pause(response))
        if not response.is_success:
            raise ServiceError(
                f"the token endpoint answers {response.status_code}; check token_address,"
                " client_id, client_secret and scope",
                401,
            )
        try:
            answer = response.json()
            return str(answer["access_token"]), float(answer.get("expires_in", 300))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ServiceError("the token endpoint answers without a token", 401) from None

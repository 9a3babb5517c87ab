"""DICOMweb: QIDO-RS finds, WADO-RS fetches (PS3.18 10.6 and 10.4).

Images are fetched one a request, several at once, straight to the disk: so what is there need not be fetched
again, no answer is held in memory, and one image that the archive cannot send is one image.

What passes is tried again, with longer and longer pauses. No redirection is followed, and neither proxy nor
login is taken from the environment's usual places: a question with a patient's number goes where the
hospital has written that it goes.
"""

import base64
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from functools import partial
from typing import IO, Any, TypeVar

import requests
from pydicom.datadict import tag_for_keyword
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError

from imaging.pacs import WANTED, Level, Row
from imaging.pacs.settings import Pacs, WebSettings
from imaging.pacs.spool import Spool
from imaging.reasons import Reason
from protocol.errors import DicomError, PacsError

logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
# At DEBUG it logs the addresses that it asks, and a query's holds a patient's number.

CONNECT_S, ANSWER_S = 10.0, 60.0
PAUSES_S: tuple[float, ...] = (1.0, 4.0, 16.0)
"""Before the second, third, ... try."""
LINES = 4
"""Images that are fetched at once."""
A_PAGE, MOST_JSON = 1000, 64 * 2**20
MOST_FAILURES = 10
"""In a row, of single entries, before an archive is taken not to list anything."""
MOST_HEAD, MOST_TAIL = 2**14, 2**12
"""Of one part of a multipart answer (RFC 2046): its headers, and what may stand behind it."""
PIECE = 2**18
PATHS: dict[Level, str] = {
    "STUDY": "/studies",
    "SERIES": "/studies/{StudyInstanceUID}/series",
    "IMAGE": "/studies/{StudyInstanceUID}/series/{SeriesInstanceUID}/instances",
}
JSON = "application/dicom+json"
DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""`*`: as it is stored; without it an archive decompresses everything."""
PASSING = {429, 502, 503, 504}
LOGIN_REFUSED = {401, 403, 407}

T = TypeVar("T")
Response = requests.Response


class Web:
    """An archive that speaks DICOMweb."""

    def __init__(self, pacs: Pacs) -> None:
        assert isinstance(pacs.settings, WebSettings)  # noqa: S101 - `connected` has looked
        self._name, self._url = pacs.name, pacs.settings.url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update(_login(pacs.login))
        self._session.mount("https://", HTTPAdapter(pool_maxsize=LINES))
        pacs.context()  # says which file is wrong, before anybody is asked
        self._session.verify = str(pacs.file("ca")) if pacs.settings.ca else True
        self._session.cert = _certificate(pacs)

    def ping(self) -> str:
        """Ask for one study, whichever it is."""
        try:
            self._get(PATHS["STUDY"], JSON, {"limit": "1"}, _read)
        except DicomError as error:
            raise PacsError(f"the PACS '{self._name}': {_why(error)}: is `url` its DICOMweb root?") from None
        return f"answers QIDO-RS at {self._url}"

    def find(self, level: Level, keys: Row) -> Iterator[Row]:
        """See `Archive`; page by page, for archives limit what they list at once.

        Some fail over a whole page because of one study in it: then one is asked for at a time, and what
        cannot be listed is a row without values.
        """
        offset, size, failures, seen = 0, A_PAGE, 0, set[str]()
        while True:
            try:
                rows = self._page(level, keys, offset, size)
            except DicomError:
                failures += size == 1
                if failures > MOST_FAILURES:
                    raise
                if size == 1:
                    offset += 1
                    yield dict.fromkeys(WANTED[level], "")
                size = 1
                continue
            new = {row[WANTED[level][0]]: row for row in rows if row[WANTED[level][0]] not in seen}
            if not new:  # the end, or an archive that knows no pages
                return
            offset, failures = offset + len(rows), 0
            seen |= new.keys()
            yield from new.values()

    def _page(self, level: Level, keys: Row, offset: int, size: int) -> list[Row]:
        conditions = {
            keyword: value for keyword, value in keys.items() if f"{{{keyword}}}" not in PATHS[level]
        }
        paging = {"limit": str(size), "offset": str(offset), "includefield": WANTED[level]}
        items = self._get(PATHS[level].format_map(keys), JSON, {**conditions, **paging}, _listed)
        return [_row(item, level) for item in items]

    def fetch(self, study: str, series: str, images: Sequence[str], spool: Spool) -> Counter[str]:
        """See `Archive`."""
        path = PATHS["IMAGE"].format(StudyInstanceUID=study, SeriesInstanceUID=series)
        with ThreadPoolExecutor(LINES) as pool:
            try:
                told = [*pool.map(partial(self._image, path, spool), images)]
            finally:
                pool.shutdown(cancel_futures=True)
        return Counter(why for why in told if why)

    def _image(self, path: str, spool: Spool, image: str) -> str:
        """Fetch one image; return why it is not there, or nothing."""

        def save(response: Response) -> None:
            with spool.place(image) as file:
                _save(response, file, spool)

        try:
            self._get(f"{path}/{image}", DICOM, {}, save)
        except DicomError as error:
            return _why(error)
        return ""

    def _get(self, path: str, accept: str, query: dict[str, Any], use: Callable[[Response], T]) -> T:
        """Return what `use` makes of an answer; tried again where that may help."""
        for pause in (*PAUSES_S, None):
            try:
                return self._once(path, accept, query, use)
            except (_PassingError, requests.RequestException) as error:
                if pause is None:
                    raise self._given_up(error) from None
            time.sleep(pause)
        raise AssertionError

    def _once(self, path: str, accept: str, query: dict[str, Any], use: Callable[[Response], T]) -> T:
        try:
            with self._session.get(
                self._url + path,
                headers={"Accept": accept},
                params=query,
                stream=True,
                timeout=(CONNECT_S, ANSWER_S),
                allow_redirects=False,
            ) as response:
                self._require(response.status_code)
                return use(response)
        except requests.exceptions.SSLError:
            raise PacsError(
                f"the PACS '{self._name}' shows a certificate that is not trusted, or wants one of ours: "
                "see ca, certificate and key in pacs.yaml"
            ) from None

    def _require(self, status: int) -> None:
        if status in LOGIN_REFUSED:
            raise PacsError(
                f"the PACS '{self._name}' refuses the login (HTTP {status}): see login in pacs.yaml"
            )
        if status in range(300, 400):
            raise PacsError(f"the PACS '{self._name}' sends us elsewhere (HTTP {status}): correct its url")
        if status in PASSING:
            raise _PassingError(f"HTTP {status}")
        if status >= 400:  # noqa: PLR2004
            raise DicomError(Reason.NOT_SENT, f"the PACS answers HTTP {status}")

    def _given_up(self, error: Exception) -> Exception:
        """Return what is raised after the last try: without words of `error`, which hold addresses."""
        if isinstance(error, requests.ConnectionError) and isinstance(error.args[0], MaxRetryError):
            return PacsError(f"the PACS '{self._name}' does not answer: url in pacs.yaml, network, firewall?")
        what = str(error) if isinstance(error, _PassingError) else "an answer that breaks off"
        return DicomError(Reason.NOT_SENT, f"the PACS answers, time and again, {what}")


class _PassingError(Exception):
    """An answer that may be another one later."""


def _login(login: str | None) -> dict[str, str]:
    """Return the header for user:password (RFC 7617) or for a token (RFC 6750)."""
    if not login:
        return {}
    if ":" in login:
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    return {"Authorization": f"Bearer {login}"}


def _certificate(pacs: Pacs) -> tuple[str, str] | None:
    certificate, key = pacs.file("certificate"), pacs.file("key")
    return (str(certificate), str(key or certificate)) if certificate else None


def _why(error: DicomError) -> str:
    return str(error).partition(": ")[2]


# -- Answers ---------------------------------------------------------------------------------


def _read(response: Response) -> bytes:
    data = bytearray()
    for piece in response.iter_content(PIECE):
        data += piece
        if len(data) > MOST_JSON:
            raise DicomError(Reason.TOO_LARGE, f"the PACS lists more than {MOST_JSON // 2**20} MiB at once")
    return bytes(data)


def _listed(response: Response) -> list[Any]:
    """Return the items of DICOM's JSON model (PS3.18 F); no content is none."""
    data = _read(response)
    try:
        found = json.loads(data) if data else []
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise DicomError(Reason.NOT_SENT, "the PACS answers a search with something that is no list")
    return found


def _row(item: Any, level: Level) -> Row:
    return {keyword: _text(item, f"{tag_for_keyword(keyword):08X}") for keyword in WANTED[level]}


def _text(item: Any, tag: str) -> str:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    texts = (
        [str(value).strip() for value in values if isinstance(value, str | int)]
        if isinstance(values, list)
        else []
    )
    return "\\".join(texts)


def _save(response: Response, file: IO[bytes], spool: Spool) -> None:
    """Write the image of an answer into `file`, without what a multipart answer has around it."""
    boundary, size = _boundary(response), 0
    for piece in _first_part(response) if boundary else response.iter_content(PIECE):
        size += len(piece)
        spool.require(size)
        file.write(piece)
    if boundary:
        _cut(file, f"\r\n--{boundary}".encode())


def _boundary(response: Response) -> str | None:
    """Return what separates the parts of an answer (RFC 2046 5.1.1); None if the image stands alone."""
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    return header.get_boundary() if header.get_content_maintype() == "multipart" else None


def _first_part(response: Response) -> Iterator[bytes]:
    """Yield what comes behind the headers of the first part."""
    head, pieces = b"", response.iter_content(PIECE)
    for piece in pieces:
        head += piece
        _, end, rest = head.partition(b"\r\n\r\n")
        if end:
            yield rest
            yield from pieces
        elif len(head) > MOST_HEAD:
            break
    if b"\r\n\r\n" not in head:
        raise DicomError(Reason.NOT_SENT, "the PACS answers with something that is no image")


def _cut(file: IO[bytes], delimiter: bytes) -> None:
    """Take off the delimiter that ends the part."""
    start = max(0, file.tell() - MOST_TAIL)
    file.seek(start)
    place = file.read().rfind(delimiter)
    if place < 0:
        raise DicomError(Reason.NOT_SENT, "the PACS answers with half an image")
    file.truncate(start + place)

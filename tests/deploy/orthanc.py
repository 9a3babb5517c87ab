"""A real PACS: Orthanc on loopback, with a login, behind nginx for TLS (Debian's own Orthanc dies of it)."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from privacy.certificates import issue, make_authority

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LOGIN = "reader:let me in"
NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2;
  fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{
    listen 127.0.0.1:{web} ssl; ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
    location / {{ proxy_pass http://127.0.0.1:{plain}; }}
  }}
}}
"""

needed = pytest.mark.skipif(
    PROGRAM is None or not PLUGIN.exists() or shutil.which("nginx") is None,
    reason="deploy/ci-tools was not run: no Orthanc with DICOMweb, or no nginx",
)


@dataclass(frozen=True)
class Orthanc:
    """Where it is, and how it is spoken to."""

    folder: Path
    plain: int
    web: int
    dicom: int
    door: int
    """The port at which it believes CONSILIUM to listen."""

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Use its own interface."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.plain}{path}", body, method=method)
        request.add_header("Authorization", f"Basic {b64encode(LOGIN.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=60) as found:
            return json.loads(found.read() or b"null")

    def store(self, folder: Path) -> None:
        """Give it every file of a folder."""
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            self.ask("POST", "/instances", path.read_bytes())

    def settings(self, **changes: Any) -> dict[str, Any]:
        """What pacs.yaml says of it, by each way."""
        web = {"url": f"https://localhost:{self.web}/dicom-web", "ca": str(self.ca), "login": "pacs.login"}
        get = {"host": "localhost", "port": self.dicom, "aet": "ORTHANC"}
        found = {"web": web, "get": get, "move": {**get, "listen": f"127.0.0.1:{self.door}"}}
        return {name: {**each, **changes} for name, each in found.items()}


@contextmanager
def orthanc(folder: Path, options: Mapping[str, Any] | None = None) -> Generator[Orthanc]:
    """Run one whose database is in `folder`."""
    folder.mkdir(exist_ok=True)
    now, authority = datetime.now(UTC), (folder / "ca.key", folder / "ca.pem")
    make_authority("hospital", *authority, now)
    issue(authority, ["localhost"], folder / "server.key", folder / "server.pem", now)
    here = Orthanc(folder, *free_ports())
    user, _, password = LOGIN.partition(":")
    settings = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": here.plain,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {user: password},
        "DicomPort": here.dicom,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowFind": False,
        "DicomModalities": {
            "us": {"AET": "CONSILIUM", "Host": "127.0.0.1", "Port": here.door, "AllowGet": True}
        },
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **(options or {}),
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, web=here.web, plain=here.plain))
    assert PROGRAM
    with (
        running([PROGRAM, str(folder / "orthanc.json")], folder / "log") as process,
        running(["nginx", "-c", str(folder / "nginx.conf")], folder / "nginx.out"),
    ):
        _wait(here, process)
        yield here


@contextmanager
def running(command: list[str], log: Path) -> Generator[subprocess.Popen[bytes]]:
    """A program for as long."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports() -> tuple[int, int, int, int]:
    """Ports that nobody has now."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        plain, web, dicom, door = (each.getsockname()[1] for each in found)
    return plain, web, dicom, door


def _wait(here: Orthanc, process: subprocess.Popen[bytes]) -> None:
    """Wait until it answers by all ways."""
    for _ in range(600):
        assert process.poll() is None, (here.folder / "log").read_text()
        try:
            here.ask("GET", "/system")
            for port in (here.dicom, here.web):
                socket.create_connection(("127.0.0.1", port), 10).close()
        except OSError:
            time.sleep(0.1)
            continue
        return
    raise AssertionError((here.folder / "log").read_text())

"""The proxy of deploy/, run by this machine's nginx."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from server.home import CoordinatorHome


@contextmanager
def proxy(text: str, home: CoordinatorHome, *, here: str, server: str) -> Iterator[None]:
    """Run nginx with the file `text`, which is to listen at `here` and pass on to `server`."""
    folder = home.folder.parent
    for there, changed in {
        "/tmp/": f"{folder}/",
        "server:8443;": f"{server};",
        "listen 8443": f"listen {here}",
        "/etc/consilium/ca.pem": str(home.ca),
        "/etc/consilium/": f"{home.folder}/",
    }.items():
        text = text.replace(there, changed)
    (folder / "proxy.conf").write_text(text)
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(["nginx", "-c", folder / "proxy.conf"], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)

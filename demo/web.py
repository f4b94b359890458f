"""A repository over HTTP, on a free port of this host, and stock python-tuf clients of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tuf.ngclient import Updater


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Says nothing."""


@contextmanager
def over_http(directory: Path) -> Iterator[str]:
    """Serve `directory` on 127.0.0.1; yields the URL, ending in a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def new_client(url: str, repository: Path, home: Path) -> Updater:
    """A client that keeps its state below `home` and trusts 1.root.json to begin with."""
    for folder in (home / "metadata", home / "targets"):
        folder.mkdir(parents=True, exist_ok=True)
    return Updater(
        str(home / "metadata"),
        f"{url}metadata/",
        str(home / "targets"),
        f"{url}targets/",
        bootstrap=(repository / "metadata" / "1.root.json").read_bytes(),
    )


def download(client: Updater, path: str) -> bytes:
    """One target's content, as the client accepts it. Raises: LookupError if it finds none."""
    found = client.get_targetinfo(path)
    if found is None:
        raise LookupError(f"the client finds no {path}")
    return Path(client.download_target(found)).read_bytes()

"""A repository for stock clients that no network serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface


class Published(FetcherInterface):
    """Files by their names, whatever the rest of their address."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        if name not in self._files:
            raise DownloadHTTPError(name, 404)
        return iter([self._files[name]])

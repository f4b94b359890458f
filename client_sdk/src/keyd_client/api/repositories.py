"""RepositoryService: TUF repositories as the daemon's rules know them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from keyd_client.api.paging import listed
from keyd_client.channel import Connection
from keyd_client.errors import InvalidRequest
from keyd_protos.v1.repositories_pb2 import (
    BootstrapRepositoryRequest,
    ForeignKey,
    GetRepositoryStateRequest,
    GetRepositoryStateResponse,
    GetRoleRulesRequest,
    GetRoleRulesResponse,
    ImportedFile,
    ImportMetadataRequest,
    ListRepositoriesRequest,
    MetadataFile,
    RegisterRepositoryRequest,
    RegisterRepositoryResponse,
    Repository,
    RoleRules,
    SetRoleRulesRequest,
)
from keyd_protos.v1.repositories_pb2_grpc import RepositoryServiceStub

_CHUNK_BYTES = 4_000_000


class Repositories:
    """Repositories by name; "" is the profile's default repository.

    Every method raises KeydClientError; `timeout_s` None: the profile's.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _named(self, repository: str) -> str:
        if name := repository or self._connection.profile.repository:
            return name
        raise InvalidRequest(
            "REPOSITORY_MISSING", "name a repository, or a default one in the client profile"
        )

    def bootstrap(
        self,
        repository: str,
        root_keys: Iterable[str],
        root_threshold: int,
        *,
        foreign_root_keys: Iterable[str] = (),
        development: bool = False,
        timeout_s: float | None = None,
    ) -> Repository:
        """Announce a new repository: names of its root keys (foreign ones as TUF key JSON)."""
        request = BootstrapRepositoryRequest(
            repository=repository,
            root_keys=root_keys,
            foreign_root_keys=[ForeignKey(tuf_key_json=key) for key in foreign_root_keys],
            root_threshold=root_threshold,
            development=development,
        )
        return self._connection.call(
            lambda channel: RepositoryServiceStub(channel).BootstrapRepository, request, timeout_s
        ).repository

    def register(
        self,
        repository: str,
        root_files: Iterable[bytes],
        *,
        development: bool = False,
        timeout_s: float | None = None,
    ) -> RegisterRepositoryResponse:
        """Take in a published repository by its chain of root files, oldest (trusted) first."""
        request = RegisterRepositoryRequest(
            repository=repository, root_files=root_files, development=development
        )
        return self._connection.call(
            lambda channel: RepositoryServiceStub(channel).RegisterRepository, request, timeout_s
        )

    def list(self, *, page_size: int = 0, timeout_s: float | None = None) -> Iterator[Repository]:
        """All repositories by name, fetched page by page while iterating."""
        request = ListRepositoriesRequest(page_size=page_size)
        return listed(
            request,
            lambda: self._connection.call(
                lambda channel: RepositoryServiceStub(channel).ListRepositories, request, timeout_s
            ),
            lambda page: page.repositories,
        )

    def state(
        self, repository: str = "", *, timeout_s: float | None = None
    ) -> GetRepositoryStateResponse:
        """Trusted root, next version and expiry of every role."""
        request = GetRepositoryStateRequest(repository=self._named(repository))
        return self._connection.call(
            lambda channel: RepositoryServiceStub(channel).GetRepositoryState, request, timeout_s
        )

    def role_rules(
        self, role: str, repository: str = "", *, timeout_s: float | None = None
    ) -> GetRoleRulesResponse:
        """The rule levels of one role."""
        request = GetRoleRulesRequest(repository=self._named(repository), role=role)
        return self._connection.call(
            lambda channel: RepositoryServiceStub(channel).GetRoleRules, request, timeout_s
        )

    def set_role_rules(
        self,
        role: str,
        rules: RoleRules,
        repository: str = "",
        *,
        comment: str = "",
        timeout_s: float | None = None,
    ) -> RoleRules:
        """Replace all rule levels of one role."""
        request = SetRoleRulesRequest(
            repository=self._named(repository), role=role, rules=rules, comment=comment
        )
        return self._connection.call(
            lambda channel: RepositoryServiceStub(channel).SetRoleRules, request, timeout_s
        ).rules

    def import_metadata(
        self,
        files: Iterable[tuple[str, bytes]],
        repository: str = "",
        *,
        timeout_s: float | None = None,
    ) -> Sequence[ImportedFile]:
        """Tell the daemon published files, as (role, content byte for byte), delegators first.

        More than 4 MB travel in several calls of `timeout_s` each.
        """
        name = self._named(repository)
        imported: list[ImportedFile] = []
        for chunk in _chunks(files):
            answer = self._connection.call(
                lambda channel: RepositoryServiceStub(channel).ImportMetadata,
                ImportMetadataRequest(repository=name, files=chunk),
                timeout_s,
            )
            imported += answer.files
        return imported


def _chunks(files: Iterable[tuple[str, bytes]]) -> Iterator[list[MetadataFile]]:
    chunk: list[MetadataFile] = []
    size = 0
    for role, content in files:
        if chunk and size + len(content) > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(MetadataFile(role=role, content=content))
        size += len(content)
    if chunk:
        yield chunk

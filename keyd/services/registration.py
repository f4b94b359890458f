"""Taking in a repository that exists already, by its published roots."""

from __future__ import annotations

from collections.abc import Sequence

from keyd.domain import metadata_file
from keyd.domain.audit import Entry, Event, Fields
from keyd.domain.delegations import key_set
from keyd.domain.metadata_file import MetadataFile
from keyd.domain.names import check_name
from keyd.domain.policy import Action, Caller
from keyd.domain.records import Repository
from keyd.domain.trust import RepositoryState
from keyd.errors import Finding, InvalidRequest
from keyd.ports import Transaction
from keyd.services.authorize import demand_administrator
from keyd.services.imports import take_in, warnings_about
from keyd.services.repositories import check_free, existing
from keyd.services.world import World


def register(
    world: World, caller: Caller, *, name: str, root_files: Sequence[bytes], development: bool
) -> tuple[Repository, tuple[Finding, ...]]:
    """Trust the first root because an administrator says so, and each later one by its signatures.

    All or nothing. What a new repository would be refused for (floors, shared keys) comes back as
    warnings. Raises: AlreadyExists, InvalidRequest, PolicyViolation.
    """
    action = Action("RepositoryService.RegisterRepository", name)
    demand_administrator(world, caller, action)
    check_name("repository", name)
    files = [metadata_file.read(content) for content in root_files]
    _check_roots(files)

    def work(tx: Transaction) -> tuple[Repository, tuple[Finding, ...]]:
        check_free(tx, name)
        _announce(world, caller, tx, name=name, files=files, development=development)
        findings: tuple[Finding, ...] = ()
        for file in files:
            found = existing(tx, name)
            findings = warnings_about(world, tx, found, "root", file)
            take_in(world, caller.principal, tx, repository=found, role="root", file=file)
        return existing(tx, name), findings

    return world.ledger.transact(work)


def _check_roots(files: Sequence[MetadataFile]) -> None:
    if not files:
        raise InvalidRequest("ROOT_REQUIRED", "give at least one published root file")
    for file in files:
        if file.payload.signed["_type"] != "root":
            raise InvalidRequest("ROLE_MISMATCH", "every file must be root metadata")


def _announce(
    world: World,
    caller: Caller,
    tx: Transaction,
    *,
    name: str,
    files: Sequence[MetadataFile],
    development: bool,
) -> None:
    anchor = files[0]
    now = world.clock.now()
    tx.put_repository(
        Repository(
            name=name,
            state=RepositoryState.BOOTSTRAP,
            development=development or tx.identity().development,
            imported=True,
            created_at=now,
            intended_root=key_set(anchor.payload, "root", "registration"),
        )
    )
    fields: Fields = {
        "repository": name,
        "first_root": anchor.version,
        "first_root_sha256": anchor.payload.digest,
        "last_root": files[-1].version,
        "development": development,
    }
    tx.append(Entry(Event.REPOSITORY_REGISTERED, now, caller.principal, fields=fields))

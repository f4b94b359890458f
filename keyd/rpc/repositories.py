"""RepositoryService: TUF repositories and the levels of their rules."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.rpc import limits
from keyd.rpc.call import Call
from keyd.rpc.convert import findings_out
from keyd.rpc.convert_repositories import (
    foreign_key_in,
    imported_out,
    repository_out,
    rules_in,
    rules_out,
    summary_out,
)
from keyd.rpc.fields import Fields
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.services import imports, registration, repositories
from keyd.services.world import World
from keyd_protos.v1 import repositories_pb2


class Repositories:
    """Proto to domain, the use case, domain to proto."""

    def __init__(self, world: World) -> None:
        self._world = world

    def methods(self) -> Mapping[str, Method]:
        """All methods of the service with their terms."""
        files, lists = limits.MESSAGE_MAX, limits.MEDIUM_REQUEST_MAX
        return bind(
            service_of(repositories_pb2.DESCRIPTOR, "RepositoryService"),
            {
                "BootstrapRepository": Terms(self.bootstrap_repository, lists),
                "RegisterRepository": Terms(self.register_repository, files, slow=True),
                "ListRepositories": Terms(self.list_repositories),
                "GetRepositoryState": Terms(self.get_repository_state),
                "GetRoleRules": Terms(self.get_role_rules),
                "SetRoleRules": Terms(self.set_role_rules),
                "ImportMetadata": Terms(self.import_metadata, files, slow=True),
            },
        )

    def bootstrap_repository(
        self, call: Call, request: repositories_pb2.BootstrapRepositoryRequest
    ) -> repositories_pb2.BootstrapRepositoryResponse:
        """A repository that is to be."""
        fields = Fields()
        name = fields.name("/repository", request.repository)
        keys = [fields.name(f"/root_keys/{i}", key) for i, key in enumerate(request.root_keys)]
        foreign = [
            foreign_key_in(fields, f"/foreign_root_keys/{i}/tuf_key_json", key.tuf_key_json)
            for i, key in enumerate(request.foreign_root_keys)
        ]
        fields.check()
        made = repositories.bootstrap(
            self._world,
            call.caller,
            name=name,
            root_keys=keys,
            foreign_keys=foreign,
            threshold=request.root_threshold,
            development=request.development,
        )
        return repositories_pb2.BootstrapRepositoryResponse(repository=repository_out(made))

    def register_repository(
        self, call: Call, request: repositories_pb2.RegisterRepositoryRequest
    ) -> repositories_pb2.RegisterRepositoryResponse:
        """A repository that is."""
        fields = Fields()
        name = fields.name("/repository", request.repository)
        fields.check()
        made, warnings = registration.register(
            self._world,
            call.caller,
            name=name,
            root_files=list(request.root_files),
            development=request.development,
        )
        return repositories_pb2.RegisterRepositoryResponse(
            repository=repository_out(made), warnings=findings_out(warnings)
        )

    def list_repositories(
        self, call: Call, request: repositories_pb2.ListRepositoriesRequest
    ) -> repositories_pb2.ListRepositoriesResponse:
        """A page of repositories."""
        fields = Fields()
        page_token = fields.name("/page_token", request.page_token, required=False)
        fields.check()
        page = repositories.list_repositories(
            self._world, call.caller, request.page_size, page_token
        )
        return repositories_pb2.ListRepositoriesResponse(
            repositories=[repository_out(found) for found in page.items],
            next_page_token=page.next_token,
        )

    def get_repository_state(
        self, call: Call, request: repositories_pb2.GetRepositoryStateRequest
    ) -> repositories_pb2.GetRepositoryStateResponse:
        """Trusted root and versions."""
        fields = Fields()
        name = fields.name("/repository", request.repository)
        fields.check()
        return summary_out(repositories.state(self._world, call.caller, name))

    def get_role_rules(
        self, call: Call, request: repositories_pb2.GetRoleRulesRequest
    ) -> repositories_pb2.GetRoleRulesResponse:
        """The levels of one role."""
        fields = Fields()
        repository = fields.name("/repository", request.repository)
        role = fields.role("/role", request.role)
        fields.check()
        rules, defaults = repositories.role_rules(self._world, call.caller, repository, role)
        return repositories_pb2.GetRoleRulesResponse(rules=rules_out(rules), defaults=defaults)

    def set_role_rules(
        self, call: Call, request: repositories_pb2.SetRoleRulesRequest
    ) -> repositories_pb2.SetRoleRulesResponse:
        """The levels of one role, as they shall be."""
        fields = Fields()
        repository = fields.name("/repository", request.repository)
        role = fields.role("/role", request.role)
        fields.present("/rules", request, "rules")
        rules = rules_in(fields, request.rules)
        fields.check()
        now = repositories.set_role_rules(
            self._world, call.caller, repository, role, rules=rules, comment=request.comment
        )
        return repositories_pb2.SetRoleRulesResponse(rules=rules_out(now))

    def import_metadata(
        self, call: Call, request: repositories_pb2.ImportMetadataRequest
    ) -> repositories_pb2.ImportMetadataResponse:
        """Published files."""
        fields = Fields()
        repository = fields.name("/repository", request.repository)
        if not request.files:
            fields.object_to("/files", "FIELD_REQUIRED", "must not be empty")
        files = [
            (fields.role(f"/files/{index}/role", file.role), file.content)
            for index, file in enumerate(request.files)
        ]
        fields.check()
        taken = imports.import_metadata(
            self._world, call.caller, repository=repository, files=files
        )
        return repositories_pb2.ImportMetadataResponse(files=[imported_out(file) for file in taken])

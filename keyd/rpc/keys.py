"""KeyService: key pairs made, adopted, listed and retired."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.domain.keys import Key, KeySpec, KeyState, Scheme
from keyd.rpc.call import Call
from keyd.rpc.convert import content_in, key_out, scheme_in
from keyd.rpc.fields import Fields
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.services import key_creation, keys
from keyd.services.world import World
from keyd_protos.v1 import keys_pb2

_RSA_BITS = 3072
_CKA_ID_MAX = 255

StateRequest = (
    keys_pb2.SuspendKeyRequest
    | keys_pb2.ResumeKeyRequest
    | keys_pb2.DeactivateKeyRequest
    | keys_pb2.MarkKeyCompromisedRequest
    | keys_pb2.DestroyKeyRequest
)


class Keys:
    """Proto to domain, the use case, domain to proto."""

    def __init__(self, world: World) -> None:
        self._world = world

    def methods(self) -> Mapping[str, Method]:
        """All methods of the service with their terms."""
        return bind(
            service_of(keys_pb2.DESCRIPTOR, "KeyService"),
            {
                "CreateKey": Terms(self.create_key, slow=True),
                "AdoptKey": Terms(self.adopt_key, slow=True),
                "GetKey": Terms(self.get_key),
                "ListKeys": Terms(self.list_keys),
                "SuspendKey": Terms(self.suspend_key),
                "ResumeKey": Terms(self.resume_key),
                "DeactivateKey": Terms(self.deactivate_key),
                "MarkKeyCompromised": Terms(self.mark_key_compromised),
                "DestroyKey": Terms(self.destroy_key),
            },
        )

    def create_key(
        self, call: Call, request: keys_pb2.CreateKeyRequest
    ) -> keys_pb2.CreateKeyResponse:
        """A new key pair on a token."""
        fields = Fields()
        name = fields.name("/name", request.name)
        token = fields.name("/token", request.token)
        scheme = scheme_in(fields, "/scheme", request.scheme) or Scheme.ECDSA_P256
        content = content_in(fields, "/content", request.content)
        request_id = fields.request_id("/request_id", request.request_id)
        fields.check()
        made = key_creation.create_key(
            self._world,
            call.caller,
            name=name,
            token=token,
            spec=KeySpec(scheme, request.rsa_bits or (_RSA_BITS if scheme.is_rsa else 0)),
            content=content,
            request_id=request_id,
            timeout_s=call.timeout_s,
        )
        return keys_pb2.CreateKeyResponse(key=self._out(made))

    def adopt_key(self, call: Call, request: keys_pb2.AdoptKeyRequest) -> keys_pb2.AdoptKeyResponse:
        """A key pair that an operator made."""
        fields = Fields()
        name = fields.name("/name", request.name)
        token = fields.name("/token", request.token)
        cka_id = fields.octets("/cka_id", request.cka_id, _CKA_ID_MAX)
        scheme = scheme_in(fields, "/scheme", request.scheme)
        content = content_in(fields, "/content", request.content)
        expected = fields.digest("/key_sha256", request.key_sha256)
        fields.check()
        made = key_creation.adopt_key(
            self._world,
            call.caller,
            name=name,
            token=token,
            cka_id=cka_id,
            scheme=scheme,
            content=content,
            expected_sha256=expected,
            timeout_s=call.timeout_s,
        )
        return keys_pb2.AdoptKeyResponse(key=self._out(made))

    def get_key(self, call: Call, request: keys_pb2.GetKeyRequest) -> keys_pb2.GetKeyResponse:
        """One key."""
        fields = Fields()
        name = fields.name("/name", request.name)
        fields.check()
        found = keys.get_key(self._world, call.caller, name)
        return keys_pb2.GetKeyResponse(key=self._out(found))

    def list_keys(self, call: Call, request: keys_pb2.ListKeysRequest) -> keys_pb2.ListKeysResponse:
        """A page of keys."""
        fields = Fields()
        page_token = fields.name("/page_token", request.page_token, required=False)
        fields.check()
        page = keys.list_keys(
            self._world, call.caller, page_size=request.page_size, page_token=page_token
        )
        return keys_pb2.ListKeysResponse(
            keys=[self._out(key) for key in page.items], next_page_token=page.next_token
        )

    def suspend_key(
        self, call: Call, request: keys_pb2.SuspendKeyRequest
    ) -> keys_pb2.SuspendKeyResponse:
        """ACTIVE to SUSPENDED."""
        return keys_pb2.SuspendKeyResponse(key=self._changed(call, request, KeyState.SUSPENDED))

    def resume_key(
        self, call: Call, request: keys_pb2.ResumeKeyRequest
    ) -> keys_pb2.ResumeKeyResponse:
        """SUSPENDED to ACTIVE."""
        return keys_pb2.ResumeKeyResponse(key=self._changed(call, request, KeyState.ACTIVE))

    def deactivate_key(
        self, call: Call, request: keys_pb2.DeactivateKeyRequest
    ) -> keys_pb2.DeactivateKeyResponse:
        """Retired."""
        changed = self._changed(call, request, KeyState.DEACTIVATED)
        return keys_pb2.DeactivateKeyResponse(key=changed)

    def mark_key_compromised(
        self, call: Call, request: keys_pb2.MarkKeyCompromisedRequest
    ) -> keys_pb2.MarkKeyCompromisedResponse:
        """Stolen."""
        changed = self._changed(call, request, KeyState.COMPROMISED)
        return keys_pb2.MarkKeyCompromisedResponse(key=changed)

    def destroy_key(
        self, call: Call, request: keys_pb2.DestroyKeyRequest
    ) -> keys_pb2.DestroyKeyResponse:
        """Gone."""
        return keys_pb2.DestroyKeyResponse(key=self._changed(call, request, KeyState.DESTROYED))

    def _changed(self, call: Call, request: StateRequest, new: KeyState) -> keys_pb2.Key:
        fields = Fields()
        name = fields.name("/name", request.name)
        fields.check()
        method = call.method.policy_name
        changed = keys.change_state(
            self._world, call.caller, method, name, new=new, comment=request.comment
        )
        return self._out(changed)

    def _out(self, key: Key) -> keys_pb2.Key:
        return key_out(key, keys.owner(self._world, key))

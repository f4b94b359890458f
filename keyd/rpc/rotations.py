"""RotationService: keys that change hands."""

from __future__ import annotations

from collections.abc import Mapping

from keyd.rpc import limits
from keyd.rpc.call import Call
from keyd.rpc.convert_rotations import change_in, exposed_out, file_out, plan_out, rotation_out
from keyd.rpc.fields import Fields
from keyd.rpc.method import Method, Terms, bind, service_of
from keyd.services.rotation import advancing, planning, starting
from keyd.services.world import World
from keyd_protos.v1 import rotations_pb2 as pb

_SIGNATURE_MAX = 1024
_RECEIPT_MAX = 16 * limits.KIB
_FILES_MAX = 4_000_000
_FRAMING = 8


class Rotations:
    """Proto to domain, the use case, domain to proto."""

    def __init__(self, world: World) -> None:
        self._world = world

    def methods(self) -> Mapping[str, Method]:
        """All methods of the service with their terms."""
        medium = limits.MEDIUM_REQUEST_MAX
        return bind(
            service_of(pb.DESCRIPTOR, "RotationService"),
            {
                "PlanRotation": Terms(self.plan_rotation, medium),
                "StartRotation": Terms(self.start_rotation, medium),
                "GetRotation": Terms(self.get_rotation),
                "ListRotations": Terms(self.list_rotations),
                "ContinueRotation": Terms(self.continue_rotation, slow=True),
                "CancelRotation": Terms(self.cancel_rotation),
                "GetReceipt": Terms(self.get_receipt),
                "UploadSignature": Terms(self.upload_signature, medium),
                "GetFiles": Terms(self.get_files),
                "ConfirmPublished": Terms(self.confirm_published),
            },
        )

    def plan_rotation(self, call: Call, request: pb.PlanRotationRequest) -> pb.PlanRotationResponse:
        """A dry run."""
        fields = Fields()
        wanted = change_in(fields, request.change)
        fields.check()
        planned = planning.plan(self._world, call.caller, wanted)
        return pb.PlanRotationResponse(
            plan=plan_out(planned),
            exposed=exposed_out(planned),
            exposed_total=len(planned.exposed),
        )

    def start_rotation(
        self, call: Call, request: pb.StartRotationRequest
    ) -> pb.StartRotationResponse:
        """A plan that was read."""
        fields = Fields()
        wanted = change_in(fields, request.change)
        digest = fields.digest("/plan_sha256", request.plan_sha256)
        grace_s = fields.number("/grace_s", request.grace_s)
        fields.check()
        started = starting.start(self._world, call.caller, wanted, digest, grace_s=grace_s)
        return pb.StartRotationResponse(rotation=rotation_out(started))

    def get_rotation(self, call: Call, request: pb.GetRotationRequest) -> pb.GetRotationResponse:
        """One rotation with its plan."""
        name = _name(request.rotation)
        progress = advancing.get(self._world, call.caller, name)
        planned = planning.recorded(self._world, progress.rotation)
        return pb.GetRotationResponse(
            rotation=rotation_out(progress),
            plan=plan_out(planned),
            exposed=exposed_out(planned),
            exposed_total=len(planned.exposed),
        )

    def list_rotations(
        self, call: Call, request: pb.ListRotationsRequest
    ) -> pb.ListRotationsResponse:
        """A page of rotations."""
        fields = Fields()
        repository = fields.name("/repository", request.repository)
        page_token = fields.name("/page_token", request.page_token, required=False)
        fields.check()
        page = advancing.list_rotations(
            self._world,
            call.caller,
            repository,
            page_size=request.page_size,
            page_token=page_token,
        )
        return pb.ListRotationsResponse(
            rotations=[rotation_out(found) for found in page.items],
            next_page_token=page.next_token,
        )

    def continue_rotation(
        self, call: Call, request: pb.ContinueRotationRequest
    ) -> pb.ContinueRotationResponse:
        """All steps that can be done."""
        name = _name(request.rotation)
        went = advancing.go_on(self._world, call.caller, name, timeout_s=call.timeout_s)
        return pb.ContinueRotationResponse(rotation=rotation_out(went.progress), done=went.done)

    def cancel_rotation(
        self, call: Call, request: pb.CancelRotationRequest
    ) -> pb.CancelRotationResponse:
        """Given up."""
        name = _name(request.rotation)
        ended = starting.cancel(self._world, call.caller, name, request.comment)
        return pb.CancelRotationResponse(rotation=rotation_out(ended))

    def get_receipt(self, call: Call, request: pb.GetReceiptRequest) -> pb.GetReceiptResponse:
        """What somebody elsewhere is to sign."""
        fields = Fields()
        name = fields.name("/rotation", request.rotation)
        role = fields.role("/of_role", request.of_role, required=False)
        fields.check()
        found = advancing.receipt(self._world, call.caller, name, role, timeout_s=call.timeout_s)
        return pb.GetReceiptResponse(
            payload=found.payload,
            receipt=found.receipt,
            role=found.file.role,
            version=found.file.version,
            wanted=found.wanted,
            change=found.change,
        )

    def upload_signature(
        self, call: Call, request: pb.UploadSignatureRequest
    ) -> pb.UploadSignatureResponse:
        """A signature made elsewhere."""
        fields = Fields()
        name = fields.name("/rotation", request.rotation)
        receipt = fields.octets("/receipt", request.receipt, _RECEIPT_MAX)
        keyid = fields.role("/keyid", request.keyid)
        signature = fields.octets("/signature", request.signature, _SIGNATURE_MAX)
        fields.check()
        done, progress = advancing.upload(
            self._world, call.caller, name, receipt=receipt, keyid=keyid, signature=signature
        )
        return pb.UploadSignatureResponse(
            replayed=done.replayed, accepted=done.accepted, rotation=rotation_out(progress)
        )

    def get_files(self, call: Call, request: pb.GetFilesRequest) -> pb.GetFilesResponse:
        """As many as fit."""
        name = _name(request.rotation)
        files = advancing.released_files(self._world, call.caller, name)
        answer = pb.GetFilesResponse(total=len(files))
        size = 0
        for file in files[request.first :]:
            found = file_out(file)
            # Thousands of small files are as much framing as content.
            size += found.ByteSize() + _FRAMING
            if answer.files and size > _FILES_MAX:
                break
            answer.files.append(found)
        return answer

    def confirm_published(
        self, call: Call, request: pb.ConfirmPublishedRequest
    ) -> pb.ConfirmPublishedResponse:
        """The files are out."""
        name = _name(request.rotation)
        said = advancing.confirm_published(self._world, call.caller, name)
        return pb.ConfirmPublishedResponse(rotation=rotation_out(said))


def _name(value: str) -> str:
    fields = Fields()
    name = fields.name("/rotation", value)
    fields.check()
    return name

"""RotationService: keys that change hands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyd_client import echo
from keyd_client.api.paging import listed
from keyd_client.channel import Connection
from keyd_client.errors import AnswerMismatch
from keyd_protos.v1.rotations_pb2 import (
    CancelRotationRequest,
    ConfirmPublishedRequest,
    ContinueRotationRequest,
    ContinueRotationResponse,
    GetFilesRequest,
    GetReceiptRequest,
    GetReceiptResponse,
    GetRotationRequest,
    GetRotationResponse,
    ListRotationsRequest,
    PlanRotationRequest,
    PlanRotationResponse,
    Rotation,
    RotationChange,
    RotationFile,
    StartRotationRequest,
    UploadSignatureRequest,
    UploadSignatureResponse,
)
from keyd_protos.v1.rotations_pb2_grpc import RotationServiceStub


class Rotations:
    """Rotations by name. Every method raises KeydClientError; `timeout_s` None: the profile's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def plan(
        self, change: RotationChange, *, timeout_s: float | None = None
    ) -> PlanRotationResponse:
        """What a change would do, and what forbids it. Nothing happens.

        The plan's digest is checked: it names these bytes and no others.
        """
        answer = self._connection.call(
            lambda channel: RotationServiceStub(channel).PlanRotation,
            PlanRotationRequest(change=change),
            timeout_s,
        )
        echo.check_digest(echo.sha256(answer.plan.json.encode()), answer.plan.digest, "plan")
        return answer

    def start(
        self,
        change: RotationChange,
        plan_sha256: bytes,
        *,
        grace_s: int = 0,
        timeout_s: float | None = None,
    ) -> Rotation:
        """Begin the change whose plan, with this digest, was read.

        `grace_s`: how long old keys stay usable after publication; 0 for a day, at most 366 days.
        """
        request = StartRotationRequest(change=change, plan_sha256=plan_sha256, grace_s=grace_s)
        return self._connection.call(
            lambda channel: RotationServiceStub(channel).StartRotation, request, timeout_s
        ).rotation

    def get(self, rotation: str, *, timeout_s: float | None = None) -> GetRotationResponse:
        """One rotation with its plan."""
        return self._connection.call(
            lambda channel: RotationServiceStub(channel).GetRotation,
            GetRotationRequest(rotation=rotation),
            timeout_s,
        )

    def list(
        self, repository: str, *, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[Rotation]:
        """All rotations of a repository by name, fetched page by page while iterating."""
        request = ListRotationsRequest(repository=repository, page_size=page_size)
        return listed(
            request,
            lambda: self._connection.call(
                lambda channel: RotationServiceStub(channel).ListRotations, request, timeout_s
            ),
            lambda page: page.rotations,
        )

    def go_on(self, rotation: str, *, timeout_s: float | None = None) -> ContinueRotationResponse:
        """Do all steps that can be done now; what is done is never done twice."""
        return self._connection.call(
            lambda channel: RotationServiceStub(channel).ContinueRotation,
            ContinueRotationRequest(rotation=rotation),
            timeout_s,
        )

    def cancel(
        self, rotation: str, comment: str = "", *, timeout_s: float | None = None
    ) -> Rotation:
        """Give it up; not possible once its first payload is accepted."""
        return self._connection.call(
            lambda channel: RotationServiceStub(channel).CancelRotation,
            CancelRotationRequest(rotation=rotation, comment=comment),
            timeout_s,
        ).rotation

    def receipt(
        self, rotation: str, role: str = "", *, timeout_s: float | None = None
    ) -> GetReceiptResponse:
        """The payload that waits for signatures made elsewhere, and the receipt of its version."""
        return self._connection.call(
            lambda channel: RotationServiceStub(channel).GetReceipt,
            GetReceiptRequest(rotation=rotation, of_role=role),
            timeout_s,
        )

    def upload(
        self,
        rotation: str,
        receipt: bytes,
        keyid: str,
        signature: bytes,
        *,
        timeout_s: float | None = None,
    ) -> UploadSignatureResponse:
        """Hand in a signature made elsewhere under the TUF key id `keyid`."""
        request = UploadSignatureRequest(
            rotation=rotation, receipt=receipt, keyid=keyid, signature=signature
        )
        return self._connection.call(
            lambda channel: RotationServiceStub(channel).UploadSignature, request, timeout_s
        )

    def files(self, rotation: str, *, timeout_s: float | None = None) -> Sequence[RotationFile]:
        """All files of a rehearsed rotation, in the order in which they are to be published."""
        files: list[RotationFile] = []
        while True:
            answer = self._connection.call(
                lambda channel: RotationServiceStub(channel).GetFiles,
                GetFilesRequest(rotation=rotation, first=len(files)),
                timeout_s,
            )
            for file in answer.files:
                echo.check_digest(echo.sha256(file.content), file.content_sha256, "file")
            files += answer.files
            if len(files) == answer.total:
                return files
            if not answer.files or len(files) > answer.total:
                raise AnswerMismatch("ECHO_MISMATCH", "the files are not as many as were said")

    def confirm_published(self, rotation: str, *, timeout_s: float | None = None) -> Rotation:
        """Say that all files are published: the old keys' grace time begins."""
        return self._connection.call(
            lambda channel: RotationServiceStub(channel).ConfirmPublished,
            ConfirmPublishedRequest(rotation=rotation),
            timeout_s,
        ).rotation

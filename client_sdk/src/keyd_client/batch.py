"""Signing many metadata objects in one stream, in bounded chunks, several of them under way."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import grpc
from securesystemslib.signer import Signature

from keyd_client import echo
from keyd_client.channel import PATIENCE_S
from keyd_client.client import Client, check_metadata_echo
from keyd_client.errors import (
    AnswerMismatch,
    BackendUnavailable,
    DeadlineExceeded,
    KeydClientError,
)
from keyd_client.signer import KeydSigner
from keyd_client.status import from_rpc_error, from_status
from keyd_protos.v1.signing_pb2 import (
    BatchSignMetadataRequest,
    BatchSignMetadataResponse,
    BatchSignMetadataResult,
    MetadataToSign,
)
from keyd_protos.v1.signing_pb2_grpc import SigningServiceStub

_CHUNK_ITEMS = 64
_CHUNK_BYTES = 4_000_000
_CHUNKS_UNDER_WAY = 4
_LONGEST_PAUSE_S = 2.0
_VERIFIERS = 2


class Signable(Protocol):
    """What a batch needs of `tuf.api.metadata.Metadata`."""

    signatures: dict[str, Signature]

    @property
    def signed_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class BatchOutcome:
    """What became of one item, `index` counting from 0: a signature or the reason for none."""

    index: int
    role: str
    key: str
    signature: Signature | None = None
    error: KeydClientError | None = None


@dataclass(frozen=True)
class _Job:
    index: int
    metadata: Signable
    role: str
    signer: KeydSigner
    request: MetadataToSign

    def outcome(self, result: Signature | KeydClientError) -> BatchOutcome:
        if isinstance(result, Signature):
            return BatchOutcome(self.index, self.role, self.signer.key, signature=result)
        return BatchOutcome(self.index, self.role, self.signer.key, error=result)


_Chunk = Sequence[_Job]
_Answer = BatchSignMetadataResponse | KeydClientError


def sign_metadata_batch(
    client: Client,
    items: Iterable[tuple[Signable, str, KeydSigner]],
    repository: str = "",
    *,
    timeout_s: float = 300.0,
) -> list[BatchOutcome]:
    """Have many (metadata, role, signer) signed and put each verified signature into its metadata.

    Signatures of other keys stay: clear those of an earlier version yourself. Later items are
    judged with earlier ones in mind; one refusal stops nothing else, its reason is in its outcome.
    `repository` "" is the profile's. `timeout_s` limits one stream: what a broken or expired stream
    left open is sent again until nothing but failures came for ten seconds, and so are items that
    the daemon asks to send later, as when a token recovers. That is safe: the daemon returns
    recorded signatures. Raises: ProfileError.
    """
    repository = repository or client.profile.repository
    outcomes: list[BatchOutcome] = []  # first what could not even be sent
    jobs: Iterable[_Job] = _jobs(client, items, repository, outcomes)
    failing_since: float | None = None  # the end of the first pass that brought nothing else
    while jobs:  # an iterator at first, which counts as true; then what is left
        settled = _sent(_Run(client, _chunks(jobs), timeout_s))
        pauses = {job.index: pause for job, outcome in settled if (pause := _pause(outcome))}
        if len(pauses) < len(settled):
            failing_since = None
        elif failing_since is None:
            failing_since = time.monotonic()
        elif time.monotonic() - failing_since > PATIENCE_S:
            pauses = {}
        outcomes += [outcome for job, outcome in settled if job.index not in pauses]
        jobs = [job for job, _ in settled if job.index in pauses]
        threading.Event().wait(min(max(pauses.values(), default=0.0), _LONGEST_PAUSE_S))
    return sorted(outcomes, key=lambda outcome: outcome.index)


def _sent(run: _Run) -> list[tuple[_Job, BatchOutcome]]:
    """Every job with what became of it, once all chunks are answered."""
    with ThreadPoolExecutor(_VERIFIERS, "keyd-verify") as pool:
        settled = [pool.submit(_settle, chunk, answer) for chunk, answer in run.answers()]
    return [pair for future in settled for pair in future.result()]


def _pause(outcome: BatchOutcome) -> float:
    """Seconds after which the daemon wants the item again; 0: this outcome is the last."""
    if outcome.error is None or not _passing(outcome.error):
        return 0.0
    return outcome.error.retry_after_s or 0.0


def _jobs(
    client: Client,
    items: Iterable[tuple[Signable, str, KeydSigner]],
    repository: str,
    refused: list[BatchOutcome],
) -> Iterator[_Job]:
    fingerprints: dict[str, bytes] = {}
    for index, (metadata, role, signer) in enumerate(items):
        keyid = signer.public_key.keyid
        try:
            if keyid not in fingerprints:
                fingerprints[keyid] = echo.fingerprint(signer.public_key)
            request = client.to_sign(
                metadata.signed_bytes,
                key=signer.key,
                key_sha256=fingerprints[keyid],
                repository=repository,
                role=role,
                confirmed_change=signer.confirmed_change,
            )
        except KeydClientError as error:
            refused.append(BatchOutcome(index, role, signer.key, error=error))
        else:
            yield _Job(index, metadata, role, signer, request)


def _chunks(jobs: Iterable[_Job]) -> Iterator[_Chunk]:
    chunk: list[_Job] = []
    size = 0
    for job in jobs:
        weight = job.request.ByteSize()
        if chunk and (len(chunk) == _CHUNK_ITEMS or size + weight > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(job)
        size += weight
    if chunk:
        yield chunk


def _request(chunk: _Chunk) -> BatchSignMetadataRequest:
    return BatchSignMetadataRequest(items=[job.request for job in chunk])


class _Run:
    """The chunks of one batch on their way through as many streams as it takes."""

    def __init__(self, client: Client, chunks: Iterator[_Chunk], timeout_s: float) -> None:
        self._client = client
        self._chunks = chunks
        self._timeout_s = timeout_s
        self._under_way: deque[_Chunk] = deque()
        self._progress = False

    def answers(self) -> Iterator[tuple[_Chunk, _Answer]]:
        """Each chunk in order with its answer, or with the error that ended the last attempt."""
        fruitless, since = 0, 0.0
        while True:
            self._progress, begun = False, time.monotonic()
            try:
                yield from self._stream()
                return
            except KeydClientError as error:
                fruitless = 0 if self._progress else fruitless + 1
                if fruitless == 1:
                    # A chunk may have been at a token for long: patience is with the failure. The
                    # whole time of a stream, though, is more than enough of it.
                    since = begun if isinstance(error, DeadlineExceeded) else time.monotonic()
                if fruitless and (not _passing(error) or time.monotonic() - since > PATIENCE_S):
                    yield from ((chunk, error) for chunk in (*self._under_way, *self._chunks))
                    return
                pause = error.retry_after_s or 0.1 * 2**fruitless
                threading.Event().wait(min(pause, _LONGEST_PAUSE_S))

    def _stream(self) -> Iterator[tuple[_Chunk, BatchSignMetadataResponse]]:
        outbox: queue.SimpleQueue[BatchSignMetadataRequest | None] = queue.SimpleQueue()
        for chunk in self._under_way:
            outbox.put(_request(chunk))
        with self._client.connection.lease() as opened:
            stream = SigningServiceStub(opened.channel).BatchSignMetadata(
                iter(outbox.get, None), timeout=self._timeout_s
            )
            try:
                while self._fill(outbox):
                    answer = next(stream, None)
                    if answer is None:
                        raise AnswerMismatch("BATCH_CUT_SHORT", "the daemon ended the stream early")
                    self._progress = True
                    yield self._under_way.popleft(), answer
                # A call that is cancelled counts as refused: let it end well.
                next(stream, None)
            except grpc.RpcError as failure:
                raise from_rpc_error(failure, opened.profile.target, self._timeout_s) from failure
            finally:
                outbox.put(None)
                stream.cancel()

    def _fill(self, outbox: queue.SimpleQueue[BatchSignMetadataRequest | None]) -> bool:
        """Send chunks until enough are under way, and say so after the last one.

        False: every chunk has been answered.
        """
        while len(self._under_way) < _CHUNKS_UNDER_WAY:
            chunk = next(self._chunks, None)
            if chunk is None:
                outbox.put(None)
                break
            self._under_way.append(chunk)
            outbox.put(_request(chunk))
        return bool(self._under_way)


def _passing(error: KeydClientError) -> bool:
    return isinstance(error, BackendUnavailable | DeadlineExceeded)


def _settle(chunk: _Chunk, answer: _Answer) -> list[tuple[_Job, BatchOutcome]]:
    """Verify one chunk's answers and hand the signatures to their metadata."""
    if isinstance(answer, BatchSignMetadataResponse):
        if len(answer.results) == len(chunk):
            pairs = zip(chunk, answer.results, strict=True)
            return [(job, job.outcome(_release(job, result))) for job, result in pairs]
        said = f"{len(answer.results)} answers for {len(chunk)} items: use none of them"
        answer = AnswerMismatch("ECHO_MISMATCH", said)
    return [(job, job.outcome(answer)) for job in chunk]


def _release(job: _Job, result: BatchSignMetadataResult) -> Signature | KeydClientError:
    try:
        if not result.HasField("signature"):
            return from_status(result.error)
        check_metadata_echo(job.request, result.signature)
        signature = echo.verified(job.signer.public_key, result.signature, job.request.payload)
    except AnswerMismatch as error:
        return error
    job.metadata.signatures[signature.keyid] = signature
    return signature

"""The client: everything that is asked of keyd and of the no-op server, through the SDK."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from securesystemslib.signer import Signature

from bench import noop, repository
from bench.payloads import Bins, bodies
from bench.program import answer
from bench.timing import closed_loop, summarize
from keyd_client.batch import sign_metadata_batch
from keyd_client.client import shared_client
from keyd_client.signer import KeydSigner

_PAYLOAD_BYTES = 2048


@dataclass
class _Bytes:
    """Metadata whose canonical bytes are known: serialising is not keyd's work."""

    signed_bytes: bytes
    signatures: dict[str, Signature] = field(default_factory=dict)


class _Caller:
    def __init__(self) -> None:
        self._signers: dict[tuple[str, str], KeydSigner] = {}
        self._bins: dict[str, Bins] = {}
        self._noops: dict[str, Any] = {}

    def prepare(
        self, directory: str, bins: int, kinds: Sequence[str]
    ) -> Mapping[str, Mapping[str, str]]:
        """Make the repository; returns CKA_ID and public key (DER, hex) by name of the key."""
        written = bodies(bins)
        wanted = [kind for kind in repository.KINDS if kind.name in kinds]
        for kind in wanted:
            self._bins[kind.name] = Bins(kind.name, bins, written)
        return repository.build(Path(directory), wanted)

    def add_keys(self, until: int) -> int:
        """Make keys until the daemon has so many; returns how many it has."""
        return repository.add_keys(until)

    def connect_noop(self, socket: str, port: int, tls: str) -> None:
        """Channels to the no-op server, over the same two kinds of socket."""
        files = (Path(tls) / name for name in ("ca.pem", "client.key", "client.pem"))
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
        channels = {
            "dev": grpc.insecure_channel(f"unix:{socket}"),
            "dev-tls": grpc.secure_channel(f"127.0.0.1:{port}", credentials),
        }
        self._noops = {name: each.unary_unary(noop.PATH) for name, each in channels.items()}

    def noop(self, profile: str, callers: int, seconds: float) -> Mapping[str, Any]:
        """Calls of the no-op server with as many bytes as a signing request has."""
        call = partial(self._noops[profile], bytes(_PAYLOAD_BYTES))
        return closed_loop([call] * callers, seconds).told()

    def sign(self, kind: str, profile: str, callers: int, seconds: float) -> Mapping[str, Any]:
        """`KeydSigner.sign`, every call another bin or version; signatures are verified here."""
        bins, signer = self._bins[kind], self._signer(kind, profile)

        def work(first: int) -> partial[None]:
            numbers = iter(range(first, 1 << 62, callers))
            return partial(_sign_next, bins, signer, numbers)

        return closed_loop([work(first) for first in range(callers)], seconds).told()

    def batch(self, kind: str, size: int, seconds: float) -> Mapping[str, Any]:
        """`sign_metadata_batch` of `size` items, repeated; the rate is of items."""
        durations: list[float] = []
        until = time.perf_counter() + seconds
        while not durations or time.perf_counter() < until:
            durations.append(self._sign_batch(kind, size))
        timing = summarize(durations, sum(durations))
        return {**timing.told(), "rate": timing.rate * size, "done": timing.done * size}

    def _sign_batch(self, kind: str, size: int) -> float:
        bins, signer = self._bins[kind], self._signer(kind, "dev")
        items = []
        for number in range(size):
            role, payload = bins.next(number)
            items.append((_Bytes(payload), role, signer))
        started = time.perf_counter()
        outcomes = sign_metadata_batch(shared_client("dev"), items, repository.NAME)
        ended = time.perf_counter()
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return ended - started

    def _signer(self, kind: str, profile: str) -> KeydSigner:
        if (kind, profile) not in self._signers:
            uri, public_key = KeydSigner.import_(profile, repository.key_name(kind))
            self._signers[kind, profile] = KeydSigner.from_priv_key_uri(uri, public_key)
        return self._signers[kind, profile]


def _sign_next(bins: Bins, signer: KeydSigner, numbers: Any) -> None:
    role, payload = bins.next(next(numbers))
    signer.for_role(repository.NAME, role).sign(payload)


if __name__ == "__main__":
    caller = _Caller()
    answer(
        {
            "prepare": caller.prepare,
            "add_keys": caller.add_keys,
            "connect_noop": caller.connect_noop,
            "noop": caller.noop,
            "sign": caller.sign,
            "batch": caller.batch,
        }
    )

"""An open loop: calls at a fixed pace, however long the ones before them take."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from keyd_protos.v1.signing_pb2 import SignOpaqueRequest
from keyd_protos.v1.signing_pb2_grpc import SigningServiceStub
from tests.daemon import OPAQUE_KEY, Installation

CALLS_PER_S = 50.0


@dataclass(frozen=True)
class Ended:
    """One call: when it began and ended, and its code."""

    began: float
    ended: float
    code: str

    @property
    def took_s(self) -> float:
        return self.ended - self.began


class Callers:
    """Opaque signatures for one principal, each call on its own, none repeated by the client."""

    def __init__(
        self,
        installation: Installation,
        principal: str = "release",
        *,
        per_s: float = CALLS_PER_S,
        threads: int = 128,
    ) -> None:
        self._stop = threading.Event()
        self.ended: list[Ended] = []
        # A connection of its own.
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"unix:{installation.socket(principal)}", options)
        self._stub = SigningServiceStub(self._channel)
        self._interval_s = 1 / per_s
        self._threads = threads
        self._pacer = threading.Thread(target=self._pace)

    def __enter__(self) -> Callers:
        self._pacer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pacer.join()
        self._channel.close()

    def since(self, moment: float, *codes: str) -> list[Ended]:
        """Calls that ended after `moment` with one of `codes`."""
        return [one for one in list(self.ended) if one.ended > moment and one.code in codes]

    def _pace(self) -> None:
        with ThreadPoolExecutor(self._threads) as pool:
            number, due = 0, time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                number, due = number + 1, due + self._interval_s
                pool.submit(self._call, b"%d" % number)

    def _call(self, data: bytes) -> None:
        began = time.monotonic()
        try:
            self._stub.SignOpaque(SignOpaqueRequest(key=OPAQUE_KEY, data=data), timeout=10.0)
            code = "OK"
        except grpc.RpcError as error:
            code = error.code().name
        self.ended.append(Ended(began, time.monotonic(), code))

"""The floor of any signature: python-pkcs11 and `cryptography` alone, on the daemon's own keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pkcs11 import ObjectClass
from pkcs11.mechanisms import MGF, Mechanism
from pkcs11.types import Session

from bench.program import answer
from bench.timing import Work, closed_loop
from keyd.wire.worker_pb2 import Login, Open, TokenMatch
from keyd.worker import public_keys, schemes
from keyd.worker.token import Token

_MESSAGE = bytes(range(256)) * 8
_PSS = (Mechanism.SHA256, MGF.SHA256, 32)


class _Raw:
    def __init__(self) -> None:
        self._token: Token | None = None

    def open(self, module: str, label: str, pin_file: str) -> None:
        """Log in as the worker does: initialised for OS locking, one anchor session."""
        self._token = Token(Open(module=module, token=TokenMatch(label=label)))
        self._token.enter()
        self._token.login(Login(credential_file=pin_file))

    def sign(self, scheme: str, cka_id: str, threads: int, seconds: float) -> Mapping[str, Any]:
        """Signatures by so many threads, each with a session and a key handle of its own."""
        works = [_signing(self._session(), scheme, cka_id) for _ in range(threads)]
        return closed_loop(works, seconds).told()

    def verify(
        self, scheme: str, cka_id: str, public_der: str, seconds: float
    ) -> Mapping[str, Any]:
        """Verifications in software of one signature in its TUF form, on one thread."""
        key = _private_key(self._session(), cka_id)
        signature = schemes.sign(key, scheme, _MESSAGE, self._opened.mechanisms)
        public = public_keys.from_der(bytes.fromhex(public_der))
        if public is None or not schemes.verifies(public, scheme, signature, _MESSAGE):
            raise AssertionError("the key does not verify its own signature")
        work = partial(schemes.verifies, public, scheme, signature, _MESSAGE)
        return closed_loop([work], seconds).told()

    @property
    def _opened(self) -> Token:
        if self._token is None:
            raise AssertionError("open comes first")
        return self._token

    def _session(self) -> Session:
        return self._opened.open_session()


def _private_key(session: Session, cka_id: str) -> Any:
    return session.get_key(object_class=ObjectClass.PRIVATE_KEY, id=bytes.fromhex(cka_id))


def _signing(session: Session, scheme: str, cka_id: str) -> Work:
    key = _private_key(session, cka_id)
    call: Callable[..., bytes] = key.sign
    if scheme.startswith("ecdsa"):
        hashing = hashlib.sha384 if scheme.endswith("384") else hashlib.sha256
        return partial(call, hashing(_MESSAGE).digest(), mechanism=Mechanism.ECDSA)
    if scheme == "ed25519":
        return partial(call, _MESSAGE, mechanism=Mechanism.EDDSA)
    return partial(call, _MESSAGE, mechanism=Mechanism.SHA256_RSA_PKCS_PSS, mechanism_param=_PSS)


if __name__ == "__main__":
    raw = _Raw()
    answer({"open": raw.open, "sign": raw.sign, "verify": raw.verify})

"""Key generation on the token, with nothing left to a module's defaults."""

from __future__ import annotations

from typing import Any

from pkcs11.constants import Attribute, MechanismFlag
from pkcs11.mechanisms import KeyType, Mechanism
from pkcs11.types import Session

from keyd.wire.worker_pb2 import Failure, Generate, KeyPair
from keyd.worker.failures import WorkerFailure
from keyd.worker.public_keys import ec_parameters
from keyd.worker.schemes import is_rsa

_PRIVATE = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}
_RSA_BITS = (2048, 3072, 4096)


def generate_pair(session: Session, wanted: Generate) -> None:
    """C_GenerateKeyPair in a read-write session. Raises: PKCS11Error, WorkerFailure."""
    key_type, mechanism, bits, parameters = _plan(wanted)
    session.generate_keypair(
        key_type,
        bits,
        id=wanted.cka_id,
        label=wanted.label,
        store=True,
        # python-pkcs11 would add DERIVE to EC keys.
        capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
        mechanism=mechanism,
        public_template={Attribute.PRIVATE: False, **parameters},
        private_template=_PRIVATE,
    )


def check_plan(wanted: Generate) -> None:
    """Raises: WorkerFailure (INVALID) if this can never be generated."""
    _plan(wanted)
    if not wanted.cka_id or len(wanted.label.encode()) > 64:
        raise WorkerFailure(Failure.KIND_INVALID, "GENERATE_NAMES")


def check_attributes(pair: KeyPair, *, waive_local: bool = False) -> None:
    """Raises: WorkerFailure (ATTRIBUTES_REFUSED), its code naming the first that is wrong."""
    demands = (
        (pair.private_found and pair.public_found and not pair.duplicates, "NOT_ONE_PAIR"),
        (bool(pair.public_der), "PUBLIC_KEY_UNREADABLE"),
        (pair.sensitive, "CKA_SENSITIVE"),
        (not pair.extractable, "CKA_EXTRACTABLE"),
        (pair.local or waive_local, "CKA_LOCAL"),
        (pair.never_extractable, "CKA_NEVER_EXTRACTABLE"),
        (pair.always_sensitive, "CKA_ALWAYS_SENSITIVE"),
        (pair.may_sign, "CKA_SIGN"),
    )
    for met, name in demands:
        if not met:
            raise WorkerFailure(Failure.KIND_ATTRIBUTES_REFUSED, name)


def _plan(wanted: Generate) -> tuple[KeyType, Mechanism, int | None, dict[Attribute, Any]]:
    if is_rsa(wanted.scheme):
        if wanted.rsa_bits not in _RSA_BITS:
            raise WorkerFailure(Failure.KIND_INVALID, "RSA_BITS")
        return KeyType.RSA, Mechanism.RSA_PKCS_KEY_PAIR_GEN, wanted.rsa_bits, {}
    try:
        parameters = {Attribute.EC_PARAMS: ec_parameters(wanted.scheme)}
    except KeyError as error:
        raise WorkerFailure(Failure.KIND_INVALID, "SCHEME") from error
    if wanted.scheme == "ed25519":
        return KeyType.EC_EDWARDS, Mechanism.EC_EDWARDS_KEY_PAIR_GEN, None, parameters
    return KeyType.EC, Mechanism.EC_KEY_PAIR_GEN, None, parameters

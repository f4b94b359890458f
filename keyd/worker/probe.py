"""What a PKCS#11 module says without a PIN; ``python -m keyd.worker.probe --module PATH``.

For `keyd doctor`. Opens no session and logs nobody in. Prints one JSON object: ``cryptoki``,
``library`` and ``tokens``, each with ``label``, ``serial``, ``model`` and ``flags``
(CK_TOKEN_INFO.flags by name).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pkcs11
from pkcs11.constants import TokenFlag
from pkcs11.types import Token

from keyd.worker.failures import WorkerFailure
from keyd.worker.module import Module
from keyd.worker.sandbox import Sandbox, SandboxUnavailable, confine


def probe(path: Path, parameters: str) -> dict[str, object]:
    """Ask the module. Raises: pkcs11.PKCS11Error as the module reports it, WorkerFailure."""
    module = Module(str(path), parameters)
    return {
        "cryptoki": ".".join(map(str, module.cryptoki_version)),
        "library": module.description,
        "tokens": [
            _token(slot.get_token())
            for slot in module.slots()
            if slot.get_token().flags & TokenFlag.TOKEN_INITIALIZED
        ],
    }


def _token(token: Token) -> dict[str, object]:
    return {
        "label": token.label,
        "serial": token.serial.decode("utf-8", "replace"),
        "model": token.model,
        "flags": sorted(flag.name or "" for flag in TokenFlag if token.flags & flag),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the module answered."""
    parser = argparse.ArgumentParser(prog="keyd.worker.probe", description=__doc__)
    parser.add_argument("--module", type=Path, required=True)
    parser.add_argument("--parameters", default="", help="for C_Initialize; default: none")
    parser.add_argument("--sandbox", type=Sandbox, default=Sandbox.UNIX)
    arguments = parser.parse_args(argv)
    # The module may print; our one line must not be mixed with that.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        confine(arguments.sandbox)
        found = probe(arguments.module, arguments.parameters)
    except (pkcs11.PKCS11Error, WorkerFailure, RuntimeError) as error:
        print(f"probe: the module answered {type(error).__name__} {error}", file=sys.stderr)
        return 1
    except SandboxUnavailable as error:
        print(f"probe: no sandbox ({error}): install libseccomp2", file=sys.stderr)
        return 1
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        json.dump(found, stream)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

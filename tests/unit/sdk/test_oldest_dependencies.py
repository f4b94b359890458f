"""The SDK works with the oldest releases that client_sdk/pyproject.toml admits."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.sdk.scripted_daemon import ScriptedDaemon

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / "build" / "oldest-sdk" / "bin" / "python"
FLOORS = (
    "securesystemslib[crypto]==1.0.0 tuf==6.0.0 grpcio==1.78.2 grpcio-status==1.78.2 "
    "protobuf==6.31.1 googleapis-common-protos==1.70.0 platformdirs==4.3.0"
)

SCRIPT = """
from importlib.metadata import version
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Targets
import keyd_client

assert version("securesystemslib") == "1.0.0" and version("grpcio") == "1.78.2"
keyd_client.register()
keyd_client.register()
uri, key = keyd_client.KeydSigner.import_("dev", "root-1")
signer = Signer.from_priv_key_uri(uri, key)
payload = b"payload"
key.verify_signature(signer.sign(payload), payload)
metadata = Metadata(Targets())
metadata.sign(signer.for_role("demo", "targets"))
key.verify_signature(metadata.signatures[key.keyid], metadata.signed_bytes)
others = [Metadata(Targets()) for _ in range(100)]
client = keyd_client.Client("dev")
outcomes = keyd_client.sign_metadata_batch(client, [(m, "targets", signer) for m in others])
assert all(outcome.signature for outcome in outcomes)
uri, key = keyd_client.KeydSigner.import_("dev", "opaque-1")
key.verify_signature(Signer.from_priv_key_uri(uri, key).sign(payload), payload)
print("works")
"""


@pytest.mark.skipif(
    not PYTHON.exists(),
    reason="no environment with the SDK's oldest dependencies; make it with: "
    f"python3 -m venv build/oldest-sdk && build/oldest-sdk/bin/pip install {FLOORS}",
)
def test_the_sdk_works_with_its_oldest_dependencies(
    daemon: ScriptedDaemon, profile_dir: Path
) -> None:
    daemon.add_key("opaque-1")
    (profile_dir / "dev.toml").write_text(f'target = "unix:{daemon.socket}"\ntimeout_s = 10\n')
    done = subprocess.run(
        [PYTHON, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(ROOT / "client_sdk" / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("works\n", 0), done.stderr

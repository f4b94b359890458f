"""Other people's tools against a running daemon: with the .proto files, and with reflection."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from structlog.testing import capture_logs

from keyd.domain.policy import Policy
from keyd.rpc.server import ServerOptions
from tests.serving import ADMIN, CI, Place, Serving, grant, serve

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def buf() -> str:
    """The buf that scripts/buf.sh installed, or one on the PATH."""
    installed = sorted((ROOT / "build").glob("buf-*/buf"))
    found = str(installed[-1]) if installed else shutil.which("buf")
    if found is None:
        pytest.skip(
            "buf is not installed, so `buf curl` was not tried; type: scripts/buf.sh --version"
        )
    return found


@pytest.fixture
def serving(place: Place) -> Iterator[Serving]:
    with serve(place, place.admin, place.tcp(), options=ServerOptions(reflection=True)) as running:
        yield running


def curl(buf: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [buf, "curl", "--protocol", "grpc", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "BUF_CACHE_DIR": str(ROOT / "build" / "buf-cache")},
    )


def over_socket(serving: Serving) -> list[str]:
    return ["--unix-socket", serving.targets[0].removeprefix("unix:"), "--http2-prior-knowledge"]


def over_mtls(serving: Serving) -> list[str]:
    place = serving.place
    certificate, key = place.authority.client(uris=[CI]).write(place.directory, "client")
    (place.directory / "trust.pem").write_bytes(place.authority.certificate)
    return [
        "--cacert",
        str(place.directory / "trust.pem"),
        "--cert",
        str(certificate),
        "--key",
        str(key),
    ]


def test_buf_curl_with_the_proto_files(buf: str, serving: Serving) -> None:
    done = curl(
        buf,
        *over_socket(serving),
        "--schema",
        "protos",
        "http://localhost/keyd.v1.TokenService/ListTokens",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"][0]["state"] == "TOKEN_STATE_ONLINE"


def test_buf_curl_with_reflection(buf: str, serving: Serving) -> None:
    done = curl(
        buf,
        *over_socket(serving),
        "--data",
        '{"name": "online-1", "token": "soft"}',
        "http://localhost/keyd.v1.KeyService/CreateKey",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["key"]["scheme"] == "ecdsa-sha2-nistp256"
    done = curl(buf, *over_socket(serving), "--list-methods", "http://localhost")
    listed = done.stdout.split()
    assert "keyd.v1.SigningService/SignMetadata" in listed
    assert "grpc.health.v1.Health/Check" in listed


def test_buf_curl_over_mtls(buf: str, serving: Serving) -> None:
    port = serving.targets[-1].rpartition(":")[2]
    url = f"https://localhost:{port}/keyd.v1.RepositoryService/ListRepositories"
    done = curl(buf, *over_mtls(serving), url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_buf_curl_shows_a_refusal_with_its_details(buf: str, serving: Serving) -> None:
    done = curl(
        buf,
        *over_socket(serving),
        "--data",
        "{}",
        "http://localhost/keyd.v1.SigningService/SignMetadata",
    )
    assert done.returncode != 0
    refusal = json.loads(done.stderr)
    assert refusal["code"] == "invalid_argument"
    assert refusal["message"].startswith("FIELD_REQUIRED: /metadata/key ")
    # buf curl prints details undecoded and without padding.
    details = {d["type"]: base64.b64decode(d["value"] + "==") for d in refusal["details"]}
    assert ErrorInfo.FromString(details["google.rpc.ErrorInfo"]).reason == "FIELD_REQUIRED"
    violations = BadRequest.FromString(details["google.rpc.BadRequest"]).field_violations
    assert [violation.field for violation in violations] == ["/metadata/key", "/metadata/payload"]


def test_reflection_needs_its_grant(buf: str, serving: Serving) -> None:
    granted = grant([ADMIN], ["TokenService.ListTokens"])
    serving.place.policy.policy = Policy("1" * 64, (granted,))
    url = "http://localhost/keyd.v1.TokenService/ListTokens"
    with capture_logs() as logs:
        blind = curl(buf, *over_socket(serving), url)
    assert blind.returncode != 0
    denied = [entry["method"] for entry in logs if entry.get("reason") == "POLICY_DENIES"]
    assert set(denied) == {"ServerReflection.ServerReflectionInfo"}
    assert curl(buf, *over_socket(serving), "--schema", "protos", url).returncode == 0

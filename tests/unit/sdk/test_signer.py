"""KeydSigner keeps securesystemslib's contract and refuses answers by another key."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, Signer, SSlibKey

import keyd_client
from keyd_client import KeydSigner, echo, errors, launcher
from keyd_protos.v1 import keys_pb2, signing_pb2
from tests.unit.sdk.scripted_daemon import Refusal, ScriptedDaemon

DENIED = grpc.StatusCode.PERMISSION_DENIED
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def profile(daemon: ScriptedDaemon, profile_dir: Path) -> str:
    """A profile file ``dev`` that leads to the scripted daemon."""
    (profile_dir / "dev.toml").write_text(f'target = "unix:{daemon.socket}"\ntimeout_s = 10\n')
    return "dev"


@pytest.fixture
def signer(daemon: ScriptedDaemon, profile: str) -> KeydSigner:
    return KeydSigner.from_priv_key_uri("keyd:dev/root-1", daemon.signers["root-1"].public_key)


def test_import_gives_what_from_priv_key_uri_takes(profile: str, daemon: ScriptedDaemon) -> None:
    uri, key = KeydSigner.import_(profile, "root-1")
    assert uri == "keyd:dev/root-1"
    assert key == daemon.signers["root-1"].public_key
    keyd_client.register()
    keyd_client.register()
    signer = Signer.from_priv_key_uri(uri, key)
    assert isinstance(signer, KeydSigner)
    assert signer.public_key is key
    key.verify_signature(signer.sign(b"payload"), b"payload")
    assert SIGNER_FOR_URI_SCHEME["keyd"] is KeydSigner


def test_making_a_signer_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYD_PROFILE_DIR", str(tmp_path / "absent"))
    signer = KeydSigner.from_priv_key_uri(
        "keyd:nowhere/k", CryptoSigner.generate_ed25519().public_key, lambda name: "never asked"
    )
    with pytest.raises(errors.ProfileError, match=r"PROFILE_NOT_FOUND.*nowhere.toml"):
        signer.sign(b"payload")


def test_a_bad_uri_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="URI_MALFORMED"):
        KeydSigner.from_priv_key_uri("keyd:x", CryptoSigner.generate_ed25519().public_key)


def test_the_keyid_is_the_public_keys_whatever_it_hashes(
    profile: str, daemon: ScriptedDaemon
) -> None:
    public = daemon.signers["root-1"].public_key
    odd = Key.from_dict("my-own-id", public.to_dict())
    signature = KeydSigner.from_priv_key_uri("keyd:dev/root-1", odd).sign(b"payload")
    assert signature.keyid == "my-own-id"


def test_the_role_travels_and_the_original_stays(
    signer: KeydSigner, daemon: ScriptedDaemon
) -> None:
    bound = signer.for_role("demo", "bin-7").confirming("ab" * 32)
    bound.sign(b"1")
    signer.sign(b"2")
    first, second = (r.metadata for r in daemon.of(signing_pb2.SignMetadataRequest))
    assert (first.repository, first.role) == ("demo", "bin-7")
    assert first.confirmed_change_sha256 == b"\xab" * 32
    assert (second.repository, second.role, second.confirmed_change_sha256) == ("", "", b"")
    assert len(first.key_sha256) == 32


@pytest.mark.parametrize("digest", ["ab", b"ab", "x" * 64, b""])
def test_a_change_digest_has_32_bytes(signer: KeydSigner, digest: str | bytes) -> None:
    with pytest.raises(errors.InvalidRequest, match="CHANGE_DIGEST_MALFORMED"):
        signer.confirming(digest)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_copies_sign_like_the_original(signer: KeydSigner, again: Any) -> None:
    signer.for_role("demo", "root").sign(b"payload")
    for other in (again(signer), again(signer.for_role("demo", "root"))):
        other.public_key.verify_signature(other.sign(b"payload"), b"payload")


def test_threads_share_one_signer(signer: KeydSigner) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number, signature in enumerate(
            pool.map(lambda n: signer.sign(str(n).encode()), range(32))
        ):
            signer.public_key.verify_signature(signature, str(number).encode())


def test_a_public_key_is_read_once(signer: KeydSigner, monkeypatch: pytest.MonkeyPatch) -> None:
    signer.sign(b"1")
    read = list[bytes]()
    monkeypatch.setattr("securesystemslib.signer._key.load_pem_public_key", read.append)
    signer.sign(b"2")
    assert not read


def test_keys_that_share_an_id_are_not_mistaken(daemon: ScriptedDaemon) -> None:
    """What was read of one key verifies nothing for another one of the same id."""
    released = daemon.released(signing_pb2.MetadataToSign(key="root-1", payload=b"payload"))
    ours = daemon.signers["root-1"].public_key
    theirs = daemon.add_key("root-2").public_key
    echo.verified(ours, released, b"payload")
    other = SSlibKey(ours.keyid, theirs.keytype, theirs.scheme, dict(theirs.keyval))
    with pytest.raises(errors.AnswerMismatch, match="SIGNATURE_INVALID"):
        echo.verified(other, released, b"payload")


def test_an_opaque_key_signs_by_its_own_call(profile: str, daemon: ScriptedDaemon) -> None:
    public = daemon.add_key("opaque-1").public_key
    signer = KeydSigner.from_priv_key_uri("keyd:dev/opaque-1", public)
    public.verify_signature(signer.sign(b"1"), b"1")
    public.verify_signature(signer.sign(b"2"), b"2")
    assert len(daemon.of(signing_pb2.SignOpaqueRequest)) == 2
    assert len(daemon.of(keys_pb2.GetKeyRequest)) == 1
    assert not daemon.of(signing_pb2.SignMetadataRequest)


def test_who_may_not_read_keys_signs_metadata(signer: KeydSigner, daemon: ScriptedDaemon) -> None:
    def denied(request: object) -> object:
        raise Refusal(DENIED, "POLICY_DENIES", "ask for a grant")

    daemon.answers["GetKey"] = denied
    signer.public_key.verify_signature(signer.sign(b"payload"), b"payload")


def test_a_signature_by_another_key_is_refused(profile: str, daemon: ScriptedDaemon) -> None:
    """The daemon, or who sits in its place, signs with a key that is not ours."""
    other = daemon.add_key("root-2").public_key
    signer = KeydSigner.from_priv_key_uri("keyd:dev/root-1", other)
    with pytest.raises(errors.AnswerMismatch, match=r"ECHO_MISMATCH.* another key"):
        signer.sign(b"payload")


def test_a_signature_over_something_else_is_refused(
    signer: KeydSigner, daemon: ScriptedDaemon
) -> None:
    """Every echo is right, only the signature covers other bytes."""

    def lying(request: signing_pb2.SignMetadataRequest) -> signing_pb2.SignMetadataResponse:
        other = signing_pb2.MetadataToSign()
        other.CopyFrom(request.metadata)
        other.payload = b"other"
        answer = daemon.released(other)
        answer.payload_sha256 = request.metadata.payload_sha256
        return signing_pb2.SignMetadataResponse(signature=answer)

    daemon.answers["SignMetadata"] = lying
    with pytest.raises(errors.AnswerMismatch, match="SIGNATURE_INVALID"):
        signer.sign(b"payload")


class Asked:
    """Answers and remembers what it was shown."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.lines: list[Sequence[str]] = []

    def __call__(self, lines: Sequence[str]) -> bool:
        self.lines.append(lines)
        return self.answer


@pytest.fixture
def root_change(daemon: ScriptedDaemon) -> ScriptedDaemon:
    """The daemon wants a change confirmed by its digest."""
    digest = b"d" * 32

    def sign(request: signing_pb2.SignMetadataRequest) -> object:
        if request.metadata.confirmed_change_sha256 != digest:
            raise Refusal(PRECONDITION, "CHANGE_NOT_CONFIRMED", "read the change and confirm it")
        return daemon.sign(request)

    daemon.answers["SignMetadata"] = sign
    daemon.answers["CheckMetadata"] = lambda request: signing_pb2.CheckMetadataResponse(
        change=["threshold of root: 2 -> 1"],
        change_sha256=digest,
        payload_sha256=request.metadata.payload_sha256,
    )
    return daemon


def test_a_root_change_is_never_confirmed_by_itself(
    signer: KeydSigner, root_change: ScriptedDaemon
) -> None:
    with pytest.raises(errors.ChangeNotConfirmed, match="read the change"):
        signer.for_role("demo", "root").sign(b"payload")
    assert not root_change.of(signing_pb2.CheckMetadataRequest)


def test_a_root_change_is_shown_and_confirmed(
    signer: KeydSigner, root_change: ScriptedDaemon
) -> None:
    yes = Asked(True)
    signature = signer.for_role("demo", "root", confirm=yes).sign(b"payload")
    signer.public_key.verify_signature(signature, b"payload")
    assert yes.lines == [("threshold of root: 2 -> 1",)]


def test_a_root_change_may_be_declined(signer: KeydSigner, root_change: ScriptedDaemon) -> None:
    with pytest.raises(errors.ChangeNotConfirmed, match="nothing was signed"):
        signer.for_role("demo", "root", confirm=Asked(False)).sign(b"payload")
    assert len(root_change.of(signing_pb2.SignMetadataRequest)) == 1


def test_python_tuf_shows_the_reason_and_keeps_it(
    signer: KeydSigner, daemon: ScriptedDaemon
) -> None:
    from tuf.api.exceptions import UnsignedMetadataError
    from tuf.api.metadata import Metadata, Targets

    def refuse(request: object) -> object:
        raise Refusal(PRECONDITION, "VERSION_NOT_INCREASING", "use version 8")

    daemon.answers["SignMetadata"] = refuse
    with pytest.raises(UnsignedMetadataError) as raised:
        Metadata(Targets()).sign(signer)
    assert str(raised.value) == "Failed to sign: VERSION_NOT_INCREASING: use version 8"
    cause = raised.value.__cause__
    assert isinstance(cause, errors.PolicyViolation)
    assert cause.reason == "VERSION_NOT_INCREASING"


IMPORTS = """
import sys, keyd_client
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"grpc", "tuf", "google", "securesystemslib", "cryptography"}, loaded
keyd_client.register()
assert not {name.partition(".")[0] for name in sys.modules} & {"grpc", "tuf"}
sys.modules["tuf"] = None  # as if it were not installed
from keyd_client import Client, KeydSigner, Profile, sign_metadata_batch
try:
    keyd_client.KeydRepository
except ModuleNotFoundError as error:
    assert "pip install 'keyd-client[tuf]'" in str(error), error
else:
    raise AssertionError("python-tuf is there after all")
try:
    keyd_client.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
"""


def test_importing_is_cheap_and_needs_no_tuf() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, timeout=60)


def install_script(site: Path, name: str, body: str) -> dict[str, str]:
    """A package of one module with one console script, as pip would leave it behind."""
    (site / f"{name}.py").write_text(body)
    info = site / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{name}-tool = {name}:main\n")
    return os.environ | {"PYTHONPATH": str(site)}


def test_keyd_run_runs_a_tool_that_never_imports_us(tmp_path: Path) -> None:
    environment = install_script(
        tmp_path,
        "tiny",
        "import sys\n"
        "from securesystemslib.signer import SIGNER_FOR_URI_SCHEME\n"
        "def main():\n"
        "    print(sys.argv, 'keyd' in SIGNER_FOR_URI_SCHEME, sys.stdin.read())\n"
        "    return 7\n",
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("keyd-run"), "tiny-tool", "--help", "x y"],
        env=environment,
        input="typed",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "['tiny-tool', '--help', 'x y'] True typed\n"
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize("words", [[], ["--help"], ["no-such-script"]])
def test_keyd_run_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher.main(words) == 2
    assert "keyd-run" in capsys.readouterr().err

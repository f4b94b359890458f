"""The floor of any call: a synchronous gRPC server that answers 72 bytes and does nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from bench.program import answer

PATH = "/bench.Floor/Noop"
_ANSWER = bytes(72)
_THREADS = 8


class _Handler(grpc.GenericRpcHandler):
    def service(
        self,
        handler_call_details: grpc.HandlerCallDetails,  # noqa: ARG002 - one handler for all
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(_noop)


def _noop(_request: bytes, _context: grpc.ServicerContext) -> bytes:
    return _ANSWER


def _listen(server: grpc.Server) -> Callable[[str, str], int]:
    def listen(socket: str, tls: str) -> int:
        """Serve a Unix socket and, with the server certificate in `tls`, a TCP port; returns it."""
        files = (Path(tls) / name for name in ("server.key", "server.pem", "ca.pem"))
        key, chain, ca = (file.read_bytes() for file in files)
        credentials = grpc.ssl_server_credentials(
            [(key, chain)], root_certificates=ca, require_client_auth=True
        )
        server.add_insecure_port(f"unix:{socket}")
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        return port

    return listen


if __name__ == "__main__":
    _server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[_Handler()])
    answer({"listen": _listen(_server)})
    _server.stop(None)

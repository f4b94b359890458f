"""Server reflection (grpc.reflection.v1alpha): shows the contract to callers granted it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from keyd.rpc.call import Call
from keyd.rpc.lanes import LaneName
from keyd.rpc.method import Method, Terms, bind, service_of


class Reflection:
    """gRPC's own servicer behind our gate."""

    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = reflection.ReflectionServicer([*services, reflection.SERVICE_NAME])

    def methods(self) -> Mapping[str, Method]:
        """The one method of the service."""
        return bind(
            service_of(reflection_pb2.DESCRIPTOR, "ServerReflection"),
            {"ServerReflectionInfo": Terms(self.answer, lane=LaneName.WATCH)},
        )

    def answer(
        self, call: Call, requests: Iterator[reflection_pb2.ServerReflectionRequest]
    ) -> Iterator[reflection_pb2.ServerReflectionResponse]:
        """One answer for each question."""
        yield from self._servicer.ServerReflectionInfo(requests, call.context)

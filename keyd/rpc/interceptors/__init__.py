"""What every call passes through, outermost first: metrics, logging, errors, identity.

Each is a context manager (or a function) over a `keyd.rpc.call.Call`; `keyd.rpc.gate` puts them
around the handler. They are no `grpc.ServerInterceptor`s because those see a call before it has a
peer and would each have to wrap four kinds of handlers.
"""

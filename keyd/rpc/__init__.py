"""Thin gRPC servicers: messages to domain values, a service, and back."""

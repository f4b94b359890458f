"""The daemon: everything else put together, started, reloaded and stopped."""

import os

# gRPC reads this once, when it is first imported. Nothing here ever forks without exec; with fork
# handlers on, every worker that is spawned would pause all calls.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# gRPC writes to standard error past our log, and waits for who reads it. There it would tell of
# failed handshakes, which any peer can cause; what is worse may be its last words.
os.environ["GRPC_VERBOSITY"] = os.environ.get("GRPC_VERBOSITY", "ERROR")

"""The daemon: everything else put together, started, reloaded and stopped."""

import os

# gRPC reads this once, when it is first imported. Nothing here ever forks without exec; with fork
# handlers on, every worker that is spawned would pause all calls.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

"""Every hardening value of the gRPC face, in one place, each with its reason.

gRPC ignores option names it does not know, so tests/integration/test_rpc_hardening.py tests each
by its effect. Sizes are bytes, times seconds unless the name says otherwise.
"""

from __future__ import annotations

from keyd.domain import opaque
from keyd.domain.sizes import PAYLOAD_MAX_BYTES

KIB = 1024
MIB = 1024 * KIB

# --- sizes ----------------------------------------------------------------------------------------

# The ceiling of rule A8, whatever a role's own rules say.
PAYLOAD_MAX = PAYLOAD_MAX_BYTES
# Names, digests and protobuf framing around one payload: each name at most 64 bytes, a delegated
# role's at most 255, digests 32.
FRAMING_MAX = 4 * KIB
METADATA_REQUEST_MAX = PAYLOAD_MAX + FRAMING_MAX
OPAQUE_DATA_MAX = opaque.MAX_BYTES
OPAQUE_REQUEST_MAX = OPAQUE_DATA_MAX + FRAMING_MAX
# What any one message may have on the wire: a batch chunk or a set of published files.
MESSAGE_MAX = 4 * MIB
# Requests made of names and a comment of 500 characters.
SMALL_REQUEST_MAX = 8 * KIB
# Lists of names, public keys or rules.
MEDIUM_REQUEST_MAX = 256 * KIB
BATCH_ITEMS_MAX = 64
# A page of log entries stays below the 4 MiB that gRPC clients receive by default.
LOG_PAGE_MAX = 3 * MIB
# Error details travel in trailers, base64 makes 4 bytes of 3, and C-core clients refuse more than
# 8 KiB of headers. Batch results travel in the message: 64 of them fit 4 MiB.
ERROR_DETAILS_MAX = 4_500
BATCH_ERROR_DETAILS_MAX = 32 * KIB

# Answers that one identity has not taken in yet: gRPC keeps them in memory, without a limit of its
# own (ten connections that never read: more than a gigabyte).
UNREAD_MAX = 32 * MIB

# --- concurrency, per listening address -----------------------------------------------------------

# Calls that may wait for tokens and ledger at once; each has a thread. This is the limit of 64 that
# was measured to hold under floods. gRPC's own `maximum_concurrent_rpcs` would count health probes
# with the rest; it is only the ceiling over all lanes and refuses without a thread and details.
WORK_THREADS = 64
# A burst of calls that quotas or policy refuse waits here for microseconds, with nothing received.
WORK_QUEUE = 192
# TokenService: an operator must get through while every work thread waits for a slow token.
ADMIN_THREADS = 8
ADMIN_QUEUE = 24
# Health probes are answered from memory.
HEALTH_THREADS = 4
HEALTH_QUEUE = 32
# Streams that stay open: WatchTokens, Health.Watch, reflection. One thread each.
WATCH_THREADS = 16
WATCH_QUEUE = 16
# Threads that only say no: a lane is full, a method does not exist.
REFUSE_THREADS = 2
REFUSE_QUEUE = 64

# --- time -----------------------------------------------------------------------------------------

# A call without a deadline gets this one; longer ones are cut to it.
CALL_TIMEOUT_S = 10.0
# Key generation (RSA on a slow token), adoption, unlocking, batches of 64.
SLOW_CALL_TIMEOUT_S = 30.0
# With less left than this, nothing is started: a signature would be made that nobody receives.
ADMISSION_FLOOR_S = 0.02
# A call that took longer is authorised once more before its answer leaves, a stream before each of
# them: what a grant or a certificate gave may have been taken back meanwhile.
AUTHORISED_FOR_S = 1.0
# A request must have arrived whole by then: 4 MiB at 2.3 Mbit/s. Else a trickle holds a thread. In
# a stream it counts from the last answer: a token may take longer for one chunk.
RECEIVE_TIMEOUT_S = 15.0
# An answer must have left by then: a peer that never reads holds memory, and of streams a thread.
SEND_TIMEOUT_S = 30.0
# How long clients wait before they repeat a call refused while draining or busy.
RETRY_AFTER_S = 1.0
# How long answers of finished calls may take to leave when the daemon stops.
FLUSH_S = 2.0
# How long gRPC may take to close connections that have been cut.
STOP_WAIT_S = 5.0
# How often watchers and the watchdog look at the clock.
TICK_S = 0.5

# --- gRPC -----------------------------------------------------------------------------------------

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A flood of opened and reset streams is stopped per connection before it reaches Python.
    ("grpc.max_concurrent_streams", 64),
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    # No call of ours needs metadata beyond a user agent. gRPC has a soft and a hard limit and
    # refuses at random between them; equal, they are one limit.
    ("grpc.max_metadata_size", 8 * KIB),
    ("grpc.absolute_max_metadata_size", 8 * KIB),
    # 1,000 silent connections: all still open without this, all gone after it.
    ("grpc.server_handshake_timeout_ms", 3_000),
    # Idle connections cost descriptors; a new handshake costs milliseconds.
    ("grpc.max_connection_idle_ms", 5_000),
    # Certificates are checked again at least this often, by a new handshake.
    ("grpc.max_connection_age_ms", 600_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    # While calls are open, a peer that leaves our pings unanswered for 20 seconds is closed: it is
    # gone, or does not even read. The second is what gRPC goes by; the third lets the pings out.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Ping floods.
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # A second daemon on the same port must fail to start, not share the calls.
    ("grpc.so_reuseport", 0),
    # Identity only: a compressed message of 4 kB could unpack to 4 MiB.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)

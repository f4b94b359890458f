"""What the worker's process may ask of the kernel, once and for all threads of the module.

A list of what is denied, because keyd cannot know what a vendor's library needs: no other program,
no other process, no other identity, no network beyond what the token's configuration names, and
nothing of the kernel that a library for signatures has no use for. Denied calls fail with EPERM,
so a library that only tries goes on. docs/adr/0015-worker-sandbox.md weighs this against its
alternatives.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

_LIBRARY = "libseccomp.so.2"

# <seccomp.h> and <linux/seccomp.h>
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_FOREIGN_ARCHITECTURE = 2  # SCMP_FLTATR_ACT_BADARCH
_NOT_EQUAL, _EQUAL, _GREATER, _MASKED_EQUAL = 1, 4, 6, 7

_INT = 0xFFFFFFFF  # the kernel looks at the lower half of an int argument, so must the filter
_CLONE_THREAD = 0x00010000
_NAMESPACES = 0x7E020000  # CLONE_NEWNS, …CGROUP, …UTS, …IPC, …USER, …PID, …NET
_RLIMIT_CORE = 4
_PRCTL_UNDOING = (4, 35, 0x59616D61)  # PR_SET_DUMPABLE, PR_SET_MM, PR_SET_PTRACER
_IOCTL_TYPING = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16  # netlink: the resolver asks it for addresses
# Calls that are younger than this list are unknown to any library that runs on older kernels.
# Numbers from 424 on are the same on every architecture.
_YOUNGER = range(463, 512)

_OTHER_PROGRAMS = "execve execveat fork vfork uselib"
_OTHER_PROCESSES = """
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
    pidfd_open pidfd_getfd pidfd_send_signal tkill rt_sigqueueinfo rt_tgsigqueueinfo
    move_pages migrate_pages
"""
_OTHER_IDENTITIES = """
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset
    setuid32 setgid32 setreuid32 setregid32 setresuid32 setresgid32 setfsuid32 setfsgid32
    setgroups32 add_key request_key keyctl
"""
_OTHER_WORLDS = """
    unshare setns chroot pivot_root mount umount umount2 move_mount open_tree mount_setattr fsopen
    fsconfig fsmount fspick open_by_handle_at
"""
_KERNEL = """
    bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
    init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct
    quotactl quotactl_fd syslog vhangup iopl ioperm modify_ldt lookup_dcookie nfsservctl
    fanotify_init personality sethostname setdomainname settimeofday clock_settime clock_settime64
    clock_adjtime clock_adjtime64 adjtimex stime vm86 vm86old _sysctl
"""
_DENIED = " ".join(
    (_OTHER_PROGRAMS, _OTHER_PROCESSES, _OTHER_IDENTITIES, _OTHER_WORLDS, _KERNEL)
).split()


class Sandbox(StrEnum):
    """How much a module may reach: files alone, this host, its network; OFF installs no filter."""

    FILES = "files"
    UNIX = "unix"
    NETWORK = "network"
    OFF = "off"


class SandboxUnavailable(Exception):
    """No filter could be installed; the text says in one word why."""


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class _Rule:
    """A system call that fails with `error` when its arguments compare so."""

    call: str | int
    comparisons: tuple[tuple[int, int, int, int], ...] = ()
    error: int = errno.EPERM


def confine(sandbox: Sandbox) -> None:
    """Install the filter for this process, before it has a second thread; nothing takes it back.

    Raises: SandboxUnavailable.
    """
    if sandbox is Sandbox.OFF:
        return
    filtering = _Filter()
    for rule in _rules(sandbox, os.getpid()):
        filtering.add(rule)
    filtering.load()


def _rules(sandbox: Sandbox, pid: int) -> Iterator[_Rule]:
    yield from (_Rule(call) for call in _DENIED)
    yield from (_Rule(number, error=errno.ENOSYS) for number in _YOUNGER)
    yield from _process_rules(pid)
    yield from (_Rule("prctl", (_is(0, option),)) for option in _PRCTL_UNDOING)
    yield from (_Rule("ioctl", (_is(1, request),)) for request in _IOCTL_TYPING)
    yield from _socket_rules(sandbox)


def _process_rules(pid: int) -> Iterator[_Rule]:
    """Threads, but no processes; signals and limits for nobody else; no way back to core dumps."""
    # Its flags lie in memory, where no filter can look. The C library then uses clone.
    yield _Rule("clone3", error=errno.ENOSYS)
    yield _Rule("clone", ((0, _MASKED_EQUAL, _CLONE_THREAD, 0),))
    for bit in range(32):
        if _NAMESPACES & 1 << bit:
            yield _Rule("clone", (_is_set(0, 1 << bit),))
    for call in ("kill", "tgkill"):
        yield _Rule(call, ((0, _NOT_EQUAL, pid, 0),))
    yield _Rule("prlimit64", ((0, _NOT_EQUAL, 0, 0),))
    yield _Rule("prlimit64", (_is(1, _RLIMIT_CORE), (2, _NOT_EQUAL, 0, 0)))
    yield _Rule("setrlimit", (_is(0, _RLIMIT_CORE),))


def _socket_rules(sandbox: Sandbox) -> Iterator[_Rule]:
    if sandbox is Sandbox.FILES:
        yield _Rule("socket")
    elif sandbox is Sandbox.UNIX:
        yield _Rule("socket", ((0, _NOT_EQUAL, _UNIX, 0),))
    else:
        # One rule compares an argument once only.
        known = (_UNIX, _INET, _INET6, _NETLINK)
        for family in set(range(_NETLINK)) - set(known):
            yield _Rule("socket", (_is(0, family),))
        yield _Rule("socket", ((0, _GREATER, _NETLINK, 0),))


def _is(argument: int, value: int) -> tuple[int, int, int, int]:
    return argument, _MASKED_EQUAL, _INT, value


def _is_set(argument: int, bit: int) -> tuple[int, int, int, int]:
    return argument, _MASKED_EQUAL, bit, bit


class _Filter:
    """A filter of libseccomp, which knows every architecture's numbers."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise SandboxUnavailable("NO_LIBSECCOMP") from error
        make = self._function("seccomp_init", ctypes.c_void_p, ctypes.c_uint32)
        self._context = ctypes.c_void_p(make(_ALLOW))
        if self._context.value is None:
            raise SandboxUnavailable("NO_MEMORY")
        set_attribute = self._function(
            "seccomp_attr_set", ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32
        )
        # The same kernel answers calls of other architectures, under other numbers. Refused where a
        # service manager denies seccomp(2): prctl(2) serves then, and ends the thread alone.
        set_attribute(self._context, _FOREIGN_ARCHITECTURE, _KILL_PROCESS)
        self._number = self._function("seccomp_syscall_resolve_name", ctypes.c_int, ctypes.c_char_p)
        self._add = self._function(
            "seccomp_rule_add_array",
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_void_p,
        )

    def add(self, rule: _Rule) -> None:
        """Calls that this architecture or this libseccomp does not have are left out."""
        call = rule.call
        number = call if isinstance(call, int) else self._number(call.encode())
        if number < 0:
            return
        each = [_Comparison(*comparison) for comparison in rule.comparisons]
        comparisons = (_Comparison * len(each))(*each)
        action = 0x00050000 | rule.error  # SECCOMP_RET_ERRNO
        _check(self._add(self._context, action, number, len(comparisons), comparisons))

    def load(self) -> None:
        """Sets PR_SET_NO_NEW_PRIVS as well, as libseccomp does by itself."""
        _check(self._function("seccomp_load", ctypes.c_int, ctypes.c_void_p)(self._context))

    def _function(self, name: str, result: Any, *arguments: Any) -> Callable[..., int]:
        prototype = ctypes.CFUNCTYPE(result, *arguments)
        return cast(Callable[..., int], prototype((name, self._library)))


def _check(result: int) -> None:
    if result:
        raise SandboxUnavailable(errno.errorcode.get(-result, "FAILED"))

"""Network namespaces, each held by a file descriptor and by nothing else.

A network namespace is a network of its own: interfaces, addresses, ports and
counters that nobody outside sees. `ip netns add` gives it a name, which stays
when everything that used it has died. Here it has none: it lasts as long as
some process is inside or holds its descriptor, so however the processes end,
SIGKILL included, the kernel removes it and the interfaces in it.

Without root, a process may make network namespaces inside a user namespace of
its own. In there it is called root, but its files and its rights outside are
those of the user who started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def system_call(name: str, *arguments: int) -> None:
    """`unshare` or `setns`, which `os` has from Python 3.12 on."""
    if hasattr(os, name):
        getattr(os, name)(*arguments)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def leave_for_own_network() -> None:
    """Move this process into a new, empty network namespace.

    As root directly; otherwise inside a new user namespace, which the system
    allows only while the process has a single thread.

    Raises:
        OSError: the system does not allow it.
    """
    try:
        system_call("unshare", CLONE_NEWNET)
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        system_call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
        # Without "deny" the system accepts no group map from a plain user.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def hold_current() -> int:
    """A descriptor of the network namespace that this thread is in.

    It is not inherited by programs that this process starts.
    """
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def path_of(descriptor: int) -> str:
    """Where other processes of the same user find a descriptor of this one."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def enter(path: str) -> None:
    """Move this thread, and every thread that it starts later, into a namespace.

    Raises:
        OSError: the process that holds it has ended, or is another user's.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        system_call("setns", descriptor, CLONE_NEWNET)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def inside_a_new_one() -> Iterator[int]:
    """Be in a new network namespace for a while; gives its descriptor, which
    stays open afterwards.
    """
    home = hold_current()
    system_call("unshare", CLONE_NEWNET)
    try:
        yield hold_current()
    finally:
        system_call("setns", home, CLONE_NEWNET)
        os.close(home)

"""What went through a rank's sockets, as the system's kernel counts it.

Linux keeps for every TCP connection how many bytes its program sent and
received (TCP_INFO). A process may ask about its own sockets without rights.

gloo connects every pair of ranks of a group by one connection, at ports that
the system picks on both ends. So what counts is a TCP connection between two
picked ports, less those of the rendezvous store at MASTER_PORT. Jupyter's
traffic never passes a rank's sockets, while the loopback interface's own
counter would hold it too.

The bytes are those of gloo's messages, with a few dozen bytes of gloo's own
for each; TCP's headers are not among them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from pathlib import Path

from labsupport.distributed.traffic_counts import Connection

OPEN_FILES = Path("/proc/self/fd")
# Offsets in struct tcp_info (linux/tcp.h); bytes_sent came with Linux 4.19.
BYTES_RECEIVED = 128
NOT_YET_SENT = 144
BYTES_SENT_AND_AGAIN = 200
TCP_INFO_SIZE = 216


def why_not_measured() -> str:
    """ "" where the system counts a socket's bytes, otherwise a reason."""
    if not sys.platform.startswith("linux") or not OPEN_FILES.is_dir():
        return "this system does not tell what a socket moved"
    with socket.socket() as probe:
        try:
            info = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        except OSError:
            info = b""
    if len(info) < TCP_INFO_SIZE:
        return "this system's kernel does not tell what a socket moved"
    return ""


class SocketBytes:
    """The connections of this process.

    gloo closes its end as soon as the other rank has closed its own, and with
    the last descriptor the counts are gone. So each connection gets a second
    descriptor. While that is open the other end does not learn of the closing
    by gloo alone: `close` it before a group is destroyed.
    """

    def __init__(self) -> None:
        self._open: dict[str, socket.socket] = {}
        self._last: dict[str, Connection] = {}

    def watch(self) -> None:
        """Find connections that were made since the last call."""
        picked = first_picked_port()
        store = os.environ.get("MASTER_PORT")
        for fd in OPEN_FILES.iterdir():
            try:
                inode = str(fd.readlink())
                if not inode.startswith("socket:") or inode in self._open:
                    continue
                end = socket.socket(fileno=os.dup(int(fd.name)))
            except OSError:  # closed meanwhile
                continue
            name = connection_name(end)
            if name is None or any(
                port < picked or str(port) == store for _, port in name
            ):
                end.close()
                continue
            local, peer = (f"{host}:{port}" for host, port in name)
            self._open[inode] = end
            self._last.setdefault(inode, Connection(local, peer, 0, 0, 0))

    def read(self) -> dict[str, Connection]:
        """All connections seen so far, those closed meanwhile as last read."""
        for inode, end in self._open.items():
            info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
            (received,) = struct.unpack_from("Q", info, BYTES_RECEIVED)
            (waiting,) = struct.unpack_from("I", info, NOT_YET_SENT)
            sent, again = struct.unpack_from("QQ", info, BYTES_SENT_AND_AGAIN)
            name = self._last[inode]
            self._last[inode] = Connection(
                name.local, name.peer, sent - again + waiting, received, again
            )
        return dict(self._last)

    def close(self) -> None:
        """Read for the last time and give the descriptors back."""
        self.read()
        for end in self._open.values():
            end.close()
        self._open.clear()


def connection_name(end: socket.socket) -> list[tuple[str, int]] | None:
    """(host, port) of this end and the other; None for what is no TCP connection."""
    if end.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if end.type != socket.SOCK_STREAM:
        return None
    try:
        return [end.getsockname()[:2], end.getpeername()[:2]]
    except OSError:  # it listens, or is closed
        return None


def first_picked_port() -> int:
    """Ports from here on are picked by the system for those that ask for none."""
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        return int(text.split()[0])
    return 32768

"""No network in tests: whoever asks for another machine is told what a machine without a network says, and is written
down. It sees what goes through Python's sockets, not what a library does in machine code."""

import errno
import ipaddress
import os
import socket
import sys
from typing import Any

NOTES = "TGA_TESTS_NETWORK"  # the environment's name for the file in which they are written down


def _is_here(host: Any) -> bool:
    """Loopback, any address to listen on, a Unix socket, or this machine's name."""
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or host in ("", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
        error: OSError = OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
        error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    else:
        return
    if _is_here(host):
        return
    if notes := os.environ.get(NOTES):
        with open(notes, "a") as file:
            file.write(f"{host} by {event}\n")
    raise error


def install(notes: str) -> None:
    """For this process, and, where this folder is on their PYTHONPATH, for those that it starts."""
    os.environ[NOTES] = notes
    sys.addaudithook(_look)

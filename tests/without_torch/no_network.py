"""No test reaches another machine: whoever imports this cannot connect to one, nor ask for its address."""

import ipaddress
import sys


def _is_here(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost") or not isinstance(name, str):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse(event: str, arguments: tuple) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else None  # a Unix socket's is a path
    else:
        return
    if not _is_here(host):
        raise ConnectionRefusedError(f"{event} to {host}: tests reach no other machine")


sys.addaudithook(_refuse)

"""Loaded by every Python process that the tests start (conftest.py puts this folder on PYTHONPATH): no network beyond this machine.

An audit hook sees every connection and every name looked up through Python's socket module, whichever library asks, and
cannot be taken out again. A refusal is also written down, because libraries like to swallow the error and carry on.
"""

import os
import sys


def _is_local(host) -> bool:
    import ipaddress
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not host or host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _refuse_network(event: str, arguments: tuple) -> None:
    if not event.startswith("socket."):
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        target = arguments[1]  # (host, port, ...); a path for AF_UNIX
        host = target[0] if isinstance(target, tuple) and target and isinstance(target[0], (str, bytes)) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if not _is_local(host):
        if log := os.environ.get("HIPPO_TEST_REFUSED"):
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{event} {host}, asked for by {' '.join(sys.argv[:4])}\n")
        raise PermissionError(f"the tests use no network: {event} to {host} refused")


sys.addaudithook(_refuse_network)

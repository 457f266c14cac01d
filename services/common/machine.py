"""Which machine this is: the same in all its processes, those in containers included."""

import socket
from pathlib import Path


def machine_name() -> str:
    """What Linux calls this start of the machine, which containers do not hide; elsewhere the host's name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()

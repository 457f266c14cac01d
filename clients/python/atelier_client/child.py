"""Runs a module as a child that does not outlive its parent: `python -m atelier_client.child MODULE PARENT_PID`.

Where the system can tell (Linux), the services of a parent that is killed outright are stopped as if by SIGTERM. Nobody
else would do it, and the next start would find ports and databases taken.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stop_with_parent(parent: int) -> None:
    """Asks the system for SIGTERM when the thread that started this process ends."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before it could be asked for
        sys.exit(1)


if __name__ == "__main__":
    module, parent_pid = sys.argv[1:3]
    stop_with_parent(int(parent_pid))
    sys.argv[:] = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

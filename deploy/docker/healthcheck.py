"""The container's health check: exit code 0 if the daemon in it says that it is alive. Standard library only.

Reads the daemon's own variables: the port, and a key in case --protect-metrics asks for one.
"""

import os
import sys
import urllib.error
import urllib.request


def a_key() -> str | None:
    """One of the daemon's keys, if variables or a file name any."""
    keys = os.environ.get("DELTALOOP_API_KEY", "").split(",")
    if path := os.environ.get("DELTALOOP_API_KEY_FILE"):
        with open(path, encoding="utf-8") as file:
            keys += [line for line in file if not line.lstrip().startswith("#")]
    return next((key.strip() for key in keys if key.strip()), None)


def check() -> str | None:
    """What is wrong, or None."""
    request = urllib.request.Request(f"http://127.0.0.1:{os.environ.get('DELTALOOP_PORT') or 8000}/health")
    if key := a_key():
        request.add_header("Authorization", f"Bearer {key}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the proxy is for the world outside
    try:
        with opener.open(request, timeout=8):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code}: {error.read(300).decode('utf-8', 'replace')}"
    except OSError as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(check())

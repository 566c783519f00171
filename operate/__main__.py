"""What `vispref up --detach` runs: HOST PORT [STATE]."""

import sys
from datetime import datetime
from pathlib import Path

from config.errors import VisprefError
from operate.up import Options, up


def main() -> int:
    host, port, *state = sys.argv[1:]
    options = Options(host, int(port), Path(state[0]) if state else None)
    try:
        up(options, lambda text: print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", flush=True))
    except VisprefError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

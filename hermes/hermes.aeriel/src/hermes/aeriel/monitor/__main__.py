"""``python -m hermes.aeriel.monitor``: the same as ``hermes-monitor``."""

import sys

from hermes.aeriel.monitor._cli import main

if __name__ == "__main__":
    sys.exit(main())

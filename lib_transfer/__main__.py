"""``python -m lib_transfer``: the command line."""

import sys

from lib_transfer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

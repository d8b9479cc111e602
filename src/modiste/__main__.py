"""`python -m modiste`."""

import sys

from modiste.cli import main

if __name__ == "__main__":
    sys.exit(main())

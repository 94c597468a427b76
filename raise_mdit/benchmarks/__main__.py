"""``python -m raise_mdit.benchmarks`` measures; ``--help`` says what."""

import sys

from raise_mdit.benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())

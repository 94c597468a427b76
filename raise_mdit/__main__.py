"""``python -m raise_mdit`` is the command ``raise-mdit``."""

from raise_mdit.cli import main

if __name__ == "__main__":
    main()

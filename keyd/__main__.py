"""``python -m keyd`` is the `keyd` command."""

from keyd.cli.main import main

if __name__ == "__main__":
    main()

"""``python -m llink`` is the ``llink`` command."""

from llink.cli import main

if __name__ == "__main__":
    main(prog_name="llink")

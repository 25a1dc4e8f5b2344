"""``python -m llink`` is the ``llink`` command."""

import os
import sys


def _leave_the_folder() -> None:
    """Take the folder one stands in off the path: it may be anyone's, and with -m Python looks there before all else.

    No plugin, and nothing that LLINK imports, is to come from there; `llink` never looked there.
    """
    try:
        here = os.getcwd()
    except OSError:  # it was deleted
        here = ""
    if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in ("", here):
        del sys.path[0]


if __name__ == "__main__":
    _leave_the_folder()

    from llink.cli import main

    main(prog_name="llink")

"""``python -m llink`` is the ``llink`` command."""

import os
import sys

# With -m Python looks for modules in the folder one stands in, before all others. It may be anyone's: no plugin, and
# nothing that LLINK imports, is to come from there. `llink` never looked there.
if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from llink.cli import main

if __name__ == "__main__":
    main(prog_name="llink")

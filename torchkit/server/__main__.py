"""python -m torchkit.server: the program is torchkit.commands.server."""

import runpy

if __name__ == "__main__":  # not imported, but run: what a package's command uses may stand below the package
    runpy.run_module("torchkit.commands.server", run_name="__main__")

"""python -m torchkit.data.prepare: the program is torchkit.commands.prepare."""

import runpy

if __name__ == "__main__":  # not imported, but run: what a package's command uses may stand below the package
    runpy.run_module("torchkit.commands.prepare", run_name="__main__")

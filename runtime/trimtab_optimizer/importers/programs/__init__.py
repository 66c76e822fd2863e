"""Programs of torch.export, read without running anything that their file brings.

`torch.export.load` is not used: it unpickles, evaluates shapes as Python text, compiles names into source code, and
loads libraries that a file carries. Here archive.py takes raw tensors alone, graph.py lets only names, operators and
arithmetic through, module.py makes a module of both, and layout.py writes it as a PyTorch package.
"""

from typing import Final

ENTRYPOINT: Final = "program_entrypoint:build"

"""What libraries read from the environment when torch is loaded, unless the user has set it.

THP_MEM_ALLOC_ENABLE: torch's arrays of 2 MB and more lie in pages of 2 MB (allocation.py).

OMP_WAIT_POLICY: a thread that waits for another gives its core away instead of spinning. Spinning
is a little quicker while nobody else wants the cores, and ruinous when somebody does: two threads
of a tiny decoder then trained at 2,500 tokens/s instead of 18,700 (EXPERIMENTS.md).
"""

import os

DEFAULTS = {"THP_MEM_ALLOC_ENABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)

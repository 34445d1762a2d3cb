"""`make fuzz`: five minutes of it, or as many seconds as are told.

python -m tests.fuzz [SECONDS]
"""

import sys
import tempfile
from pathlib import Path

from tests.fuzz.running import fuzz

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        done = fuzz(Path(home), int(sys.argv[1]) if len(sys.argv) > 1 else 300)
    sys.stdout.write(done.report)
    sys.exit(done.status)

"""`python -m api`: the HTTP API alone, where MIXLAB_HOST and MIXLAB_PORT say."""

import sys

from api.serving import serve
from api.settings import Settings

if __name__ == "__main__":
    sys.exit(serve(Settings()))

"""`python -m api`: the HTTP API alone, where MIXLAB_HOST and MIXLAB_PORT say."""

import uvicorn

from api.app import create_app
from api.settings import Settings

settings = Settings()
uvicorn.run(create_app(settings), host=settings.host, port=settings.port)

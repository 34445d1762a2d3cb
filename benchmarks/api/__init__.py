"""How fast the service answers while it works, beside a bare FastAPI route and bare Celery."""

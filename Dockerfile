# Two targets: `slim` runs the API, the CPU workers and the sweep without torch;
# `train` adds torch for the GPU workers and training runs.
FROM python:3.12-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
RUN useradd --uid 10001 --create-home mixlab && mkdir /data && chown mixlab /data
WORKDIR /srv/mixlab
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mixlab mixlab
COPY api api
COPY workers workers
COPY cli cli
ENV MIXLAB_HOME=/data

FROM base AS slim
RUN pip install -c constraints.txt '.[service,postgres]'
USER mixlab

FROM base AS train
# torch.compile builds its kernels' launchers with them; without, blocks run as they are written.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# The CUDA build of the pinned torch comes from the package index's default wheel.
RUN pip install -c constraints.txt '.[service,postgres,train,trackers]'
USER mixlab

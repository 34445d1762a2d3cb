# Three targets: `slim` runs the API, the CPU workers and the sweep, without torch; `train` is
# `slim` with torch for the GPU workers and training runs; `flower` shows what Celery does.
#
# PYTHON has python3, and Debian's apt for `train`; it is what runs. BUILDER is the same with venv
# and pip, and with whatever settings the way to a package index needs; nothing of it remains.
ARG PYTHON=python:3.12.12-slim-bookworm
ARG BUILDER=${PYTHON}

FROM ${BUILDER} AS needs
ENV PATH=/opt/mixlab/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/mixlab
ARG EXTRAS=service,postgres,s3
# A layer that changes with these files alone: setuptools finds no package here, pip what it needs.
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The numerical packages' own tests are 100 MB that nobody runs here.
RUN python3 -m venv /opt/mixlab \
    && pip install -c constraints.txt ".[$EXTRAS]" && pip uninstall --yes mixlab \
    && cd /opt/mixlab/lib/python3*/site-packages \
    && find numpy scipy pandas pyarrow matplotlib -type d -name tests -prune -exec rm -rf {} +

FROM needs AS wheel
COPY mixlab mixlab
COPY api api
COPY workers workers
COPY cli cli
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM needs AS build-slim
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl && pip uninstall --yes pip

FROM ${PYTHON} AS base
ENV PATH=/opt/mixlab/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MIXLAB_HOME=/data
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin mixlab \
    && install -d -o mixlab -g mixlab /data
WORKDIR /srv/mixlab

FROM base AS slim
COPY --from=build-slim /opt/mixlab /opt/mixlab
USER 10001

# The CUDA build of the pinned torch comes from the package index's default wheel.
FROM needs AS build-train
RUN pip install -c constraints.txt '.[train,trackers]' && pip uninstall --yes mixlab
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl && pip uninstall --yes pip

FROM base AS train
# torch.compile builds its kernels' launchers with them; without, blocks run as they are written.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-train /opt/mixlab /opt/mixlab
USER 10001

FROM needs AS build-flower
RUN pip install -c constraints.txt '.[flower]' && pip uninstall --yes mixlab
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl && pip uninstall --yes pip

FROM base AS flower
COPY --from=build-flower /opt/mixlab /opt/mixlab
USER 10001

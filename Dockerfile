# syntax=docker/dockerfile:1

# The daemon's image, for the CPU unless told otherwise:
#
#   docker build -t deltaloop:cpu .
#   docker build -t deltaloop:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#
# torch is taken from TORCH_INDEX: PyTorch's own index has builds without CUDA, which are far smaller; PyPI's build for
# Linux brings CUDA along, so that the base image need not. For another CUDA version than that one, name its index, such
# as https://download.pytorch.org/whl/cu126.
ARG PYTHON=python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu


# What the daemon depends on, in a virtual environment. Changes only with pyproject.toml and constraints.txt.
FROM ${PYTHON} AS dependencies
ARG TORCH_INDEX
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --constraint constraints.txt --index-url "${TORCH_INDEX}" torch
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && pip --python /opt/venv/bin/python install --constraint constraints.txt --requirement requirements.txt


# The daemon itself, as a wheel. Its kernels are compiled here, for every instruction set that they know, so that the
# image needs no compiler; they share the OpenMP runtime that torch brings.
FROM ${PYTHON} AS wheel
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY engine engine
RUN python -m engine.kernels.build --all --out engine/kernels/prebuilt
COPY server server
RUN --mount=type=cache,target=/root/.cache/pip pip wheel --no-deps --wheel-dir /wheels .


FROM ${PYTHON}
RUN groupadd --system --gid 10001 deltaloop \
    && useradd --system --no-log-init --uid 10001 --gid deltaloop --home-dir /tmp --shell /usr/sbin/nologin deltaloop \
    && install --directory --owner deltaloop --group deltaloop --mode 700 /cache
COPY --from=dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /wheels/*.whl
COPY deploy/docker/healthcheck.py /opt/healthcheck.py

# The address is a variable and not a part of CMD, so that `docker run … serve /models/…` is reachable as well. Only
# /tmp is ever written to, and only by libraries that cache something; and /cache, with --cache-dir /cache.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DELTALOOP_HOST=0.0.0.0

ARG REVISION=unknown
LABEL org.opencontainers.image.title="deltaloop" \
      org.opencontainers.image.description="An OpenAI-compatible daemon that serves Qwen3-Coder-Next" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /models
VOLUME ["/models"]
EXPOSE 8000
STOPSIGNAL SIGTERM
# Reading a large model takes minutes; the first success ends the start period.
HEALTHCHECK --interval=30s --timeout=10s --retries=3 --start-period=60m --start-interval=2s \
    CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["deltaloop"]
CMD ["serve"]

# syntax=docker/dockerfile:1
# An image with Alphavel, all of it, and gunicorn. The application comes on top:
#     FROM alphavel
#     COPY . .
#     CMD ["websocket:serve", "--app", "shop:app"]

ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
# For the C extensions; without a compiler the server reads and writes in Python.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY setup.cfg setup.py pyproject.toml README.md LICENSE ./
COPY alphavel alphavel
RUN python -m venv /opt/alphavel \
    && /opt/alphavel/bin/pip install --no-cache-dir --disable-pip-version-check ".[all]" "gunicorn>=22"

FROM python:${PYTHON}-slim-bookworm
RUN groupadd --system --gid 10001 alpha \
    && useradd --system --uid 10001 --gid alpha --no-create-home --shell /usr/sbin/nologin alpha \
    && install -d -m 700 -o alpha -g alpha /run/alphavel \
    && install -d /srv/app
COPY --from=build /opt/alphavel /opt/alphavel
ENV PATH=/opt/alphavel/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ALPHAVEL_RUN_DIR=/run/alphavel
WORKDIR /srv/app
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 9501
# SIGTERM: clients are told to come back, requests and handlers finish. Give it longer than options.drain_timeout.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-IS", "-c", "import os, ssl, urllib.request as r; e = os.environ.get; r.urlopen(f'http{\"s\" * bool(e(\"ALPHAVEL_TLS_CERT\"))}://127.0.0.1:{e(\"ALPHAVEL_WEBSOCKET_PORT\", 9501)}/health', timeout=4, context=ssl._create_unverified_context())"]
ENTRYPOINT ["alpha"]
CMD ["websocket:serve"]

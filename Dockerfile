# Built from the locks, by hash. The image has no embedded Postgres and holds no data: set DATABASE_URI to a Postgres, or
# it does not start. It listens on all addresses, so say how callers are known, too, such as by AUTH_TYPE=api_key.
# The digest decides, the tag says which version it is. A newer one: docker buildx imagetools inspect python:3.13-slim
FROM python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS base

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
RUN python -m venv /opt/threadkeep && python -m venv /opt/build
COPY requirements/ requirements/
RUN /opt/threadkeep/bin/pip install --quiet --require-hashes --only-binary :all: --requirement requirements/serve.txt \
 && /opt/build/bin/pip install --quiet --require-hashes --only-binary :all: --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY migrations/ migrations/
COPY templates/ templates/
COPY server/ server/
RUN /opt/build/bin/python -m hatchling build --target wheel --directory /wheel \
 && /opt/threadkeep/bin/pip install --quiet --no-index --no-deps /wheel/*.whl

FROM base
RUN useradd --uid 10001 --user-group --create-home threadkeep
COPY --from=build /opt/threadkeep /opt/threadkeep
ENV PATH=/opt/threadkeep/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0 PORT=2024
USER 10001:10001
WORKDIR /home/threadkeep
EXPOSE 2024
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/livez', timeout=4)"]
ENTRYPOINT ["threadkeep"]
CMD ["serve"]

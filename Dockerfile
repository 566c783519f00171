# The image of the workers and of `deploy`. Two targets, because faiss-cpu and faiss-gpu exclude each
# other; torch brings its own CUDA libraries in both. Nothing secret goes in: keys come from the
# environment at run time, and .dockerignore lets only the project's code through.
#
#   docker build --target cpu -t vispref-cpu:0.1.0 .
#   docker build --target gpu -t vispref-gpu:0.1.0 .

FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH
# Volumes made from these folders belong to this user.
RUN useradd --uid 10001 --create-home vispref \
    && mkdir -p /data /cache /opt/vispref \
    && chown vispref:vispref /data /cache
WORKDIR /opt/vispref

FROM base AS installer
COPY constraints.txt .
RUN python -m venv /opt/venv && python -m pip install --no-cache-dir -c constraints.txt uv
# Dependencies are a layer of their own: a change of the code does not install them again.
COPY pyproject.toml .

FROM installer AS cpu-installed
RUN uv pip install --no-cache --python /opt/venv/bin/python -c constraints.txt \
    -r pyproject.toml --extra cpu --extra train --extra plots --extra s3
COPY . .
RUN uv pip install --no-cache --python /opt/venv/bin/python --no-deps -e .

FROM installer AS gpu-installed
RUN uv pip install --no-cache --python /opt/venv/bin/python -c constraints.txt \
    -r pyproject.toml --extra gpu --extra train --extra plots --extra s3
COPY . .
RUN uv pip install --no-cache --python /opt/venv/bin/python --no-deps -e .

FROM base AS cpu
COPY --from=cpu-installed /opt/venv /opt/venv
COPY --from=cpu-installed /opt/vispref /opt/vispref
USER vispref
CMD ["vispref", "--help"]

FROM base AS gpu
COPY --from=gpu-installed /opt/venv /opt/venv
COPY --from=gpu-installed /opt/vispref /opt/vispref
USER vispref
CMD ["vispref", "--help"]

# docker build --tag normplugins . && docker run --rm --volume "$PWD/out:/out" normplugins run demo norm=pn
FROM python:3.11-slim

RUN apt-get update && apt-get install --yes --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/normplugins
COPY . .
# For example, --build-arg PIP_ARGS="--extra-index-url ADDRESS" chooses the CPU build of PyTorch.
ARG PIP_ARGS=""
RUN PIP_NO_CACHE_DIR=1 make setup PIP_ARGS="$PIP_ARGS"

# Corpora, runs and results go to the folder in which the command runs.
WORKDIR /out
ENV PATH="/opt/normplugins/.venv/bin:$PATH"
ENTRYPOINT ["normplugins"]
CMD ["--help"]

# Training, evaluation and export:
#   docker build -f docker/training.Dockerfile .
# torch is the build from PyPI, which includes CUDA (several GB) and also runs on a CPU. To use another wheel, such as the
# CPU build: --build-context wheels=DIR.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM scratch AS wheels

# A separate stage, so that packages are reinstalled only when requirements change, not at every edit of pyproject.toml.
FROM ${BASE_IMAGE} AS requirements
WORKDIR /build
COPY pyproject.toml .
RUN python -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    print(*p["dependencies"], *(r for e in sys.argv[1].split() for r in p["optional-dependencies"][e]), sep="\n")' \
    "training cpu heif" >requirements.txt

FROM ${BASE_IMAGE} AS packages
WORKDIR /build
RUN python -m venv --without-pip /venv
COPY constraints.txt .
COPY --from=requirements /build/requirements.txt .
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,from=wheels,target=/wheels \
    pip --python /venv/bin/python install --only-binary :all: --find-links /wheels -c constraints.txt -r requirements.txt

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="AlexNet training" \
      org.opencontainers.image.description="Trains AlexNet on a folder of photographs and exports one ONNX file" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /venv /venv
# 755: readable by any user, with any umask of the checkout.
COPY --chmod=755 contract /app/contract
COPY --chmod=755 training /app/training
# The working directory is /, so that runs/NAME and models/NAME.onnx mean the same here as in a checkout.
WORKDIR /
# USER: torch needs a user name, and the uid of the caller has none in the image.
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=training \
    REVISION=${REVISION}
USER 10001:10001
# Same as Ctrl-C, so that `docker stop` leaves a usable checkpoint.
STOPSIGNAL SIGINT
# Signals are blocked until Python handles them: the kernel drops signals that PID 1 of a container has no handler for.
ENTRYPOINT ["env", "--block-signal=TERM,INT", "python", "-m", "training"]
CMD ["--help"]

# The service only: without torch, without a compiler.
#   docker build -f docker/service.Dockerfile .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS packages
# The build of ONNX Runtime: cpu or gpu
ARG RUNTIME=cpu
# heif for photographs of iPhones, otel for traces, gpu-decode for DECODE=gpu
ARG EXTRAS
WORKDIR /build
RUN python -m venv --without-pip /venv
# Versions and hashes for the Python of this image; written by scripts/lock.
COPY docker/requirements .
RUN for part in ${RUNTIME} ${EXTRAS}; do cat "${part}.txt" || exit 1; done >requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /venv/bin/python install --only-binary :all: --require-hashes -r requirements.txt

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="AlexNet service" \
      org.opencontainers.image.description="Image classification over HTTP by one ONNX file" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /venv /venv
# 755: readable by the user below, with any umask of the checkout.
COPY --chmod=755 alexnet_client /app/alexnet_client
COPY --chmod=755 contract /app/contract
COPY --chmod=755 service /app/service
# The working directory is /, so that models/NAME.onnx is the same file here as in a checkout.
WORKDIR /
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    HOST=0.0.0.0 PORT=8000 MODELS=/models
USER 10001:10001
EXPOSE 8000
# http.client, because urllib would use the proxy that some Docker installations set in the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s CMD ["python", "-c", \
    "import http.client as h, os, sys; c = h.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
# Signals are blocked until Python handles them: the kernel drops signals that PID 1 of a container has no handler for.
ENTRYPOINT ["env", "--block-signal=TERM,INT", "python", "-m", "service"]

# HAProxy from Debian, on the base image of the other images; its Python runs the health check.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
LABEL org.opencontainers.image.title="AlexNet proxy" \
      org.opencontainers.image.description="HAProxy in front of the replicas of the AlexNet service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
# Without a version: Debian keeps only the newest one of a release, with the security fixes.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/*
COPY --chmod=644 docker/haproxy.cfg /etc/haproxy/haproxy.cfg
USER 10001:10001
EXPOSE 8000
# Finishes requests in flight; SIGTERM would abort them.
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s CMD ["python", "-c", \
    "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', 8001, timeout=4); c.request('GET', '/'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg"]

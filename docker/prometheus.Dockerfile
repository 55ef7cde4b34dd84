# Prometheus from Debian, on the base image of the other images; its Python runs the health check.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
LABEL org.opencontainers.image.title="AlexNet monitoring" \
      org.opencontainers.image.description="Prometheus with the alert rules for the replicas of the AlexNet service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
# Without a version: Debian keeps only the newest one of a release, with the security fixes.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/*
COPY --chmod=644 docker/monitoring/prometheus.yml docker/monitoring/alerts.yml /etc/prometheus/
# A new volume gets the owner of this folder.
RUN promtool check config --syntax-only /etc/prometheus/prometheus.yml && install -d -o 10001 -g 10001 /prometheus
USER 10001:10001
EXPOSE 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s CMD ["python", "-c", \
    "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', 9090, timeout=4); c.request('GET', '/-/ready'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus", \
    "--storage.tsdb.retention.time=30d", "--storage.tsdb.retention.size=2GB"]

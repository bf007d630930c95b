# One image for every service; docker-compose.yml says which one a container runs.
FROM node:22-bookworm-slim AS page
WORKDIR /web
COPY client/web .
RUN PYTHON=python3 sh build.sh /page

FROM python:3.12-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap ngspice \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home vistaflow \
    && install -d -o vistaflow -g vistaflow /var/lib/vistaflow

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY services services
COPY --from=page /page services/vistaflow_services/gateway/page/built
RUN pip install --no-cache-dir '.[all]' && rm -rf /src

USER vistaflow
WORKDIR /home/vistaflow
ENV VISTAFLOW_HOME=/var/lib/vistaflow \
    PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "-P", "-m"]
CMD ["vistaflow_services.registry"]

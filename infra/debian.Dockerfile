# PostgreSQL and an S3 store out of Debian and PyPI, where the images of compose.yaml cannot be pulled (infra/container.sh).
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS postgres
RUN apt-get update && apt-get install -y --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
RUN install -d -o postgres -g postgres /var/lib/postgresql/data
USER postgres
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data/main
# As the image of compose.yaml: the variables say user, password and database of a folder that is new.
CMD ["bash", "-euc", "if ! test -s $PGDATA/PG_VERSION; then \
  initdb --auth=scram-sha-256 --username=$POSTGRES_USER --pwfile=<(echo $POSTGRES_PASSWORD); \
  test $POSTGRES_DB = postgres || echo CREATE DATABASE $POSTGRES_DB | postgres --single -j postgres; \
  echo host all all all scram-sha-256 >> $PGDATA/pg_hba.conf; fi; \
exec postgres -c listen_addresses='*'"]

FROM ${BASE} AS s3
RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install --no-cache-dir "moto[server,s3]==5.2.5"
# Whatever MinIO would be told, it listens where MinIO does.
ENTRYPOINT ["bash", "-c", "exec moto_server --host 0.0.0.0 --port 9000"]

# One image for the training job, the Prefect server and the worker, so that what runs together has
# the versions that were locked and tested together.
#
#     docker build --build-arg SOURCE_COMMIT=$(git rev-parse HEAD) --tag fmnist-training .
#     docker run --rm --init --read-only --volume fmnist:/var/lib/fmnist fmnist-training
#
# It writes only to its one volume, so the root file system may be read-only. The volume must be
# writable by 10001:10001: a new named volume gets its owner from the image, a folder must be given
# to that user first, and Kubernetes wants `fsGroup: 10001`.
#
# Without --init, or another parent that forwards signals, the job does not see a SIGTERM during its
# first seconds, while Python is still importing; after that it ends within seconds.
#
# 1.5 GB unpacked on Debian's own Python (`.ci/image` prints it): 0.1 GB of base, 0.8 GB of
# TensorFlow, most of it one library, and 0.6 GB of the other packages.

# Any Debian-like image with Python 3.11 to 3.13 and its venv module.
ARG BASE=python:3.11-slim-bookworm


# ---- the locked packages: a layer that changes with requirements.txt alone ----------------------

FROM ${BASE} AS packages

# pip stays in this stage: nothing in the image installs anything.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv

# To strip what is only there for debuggers. Behind a closed network, name a mirror of Debian's for
# this step only: --secret id=sources.list,src=...
RUN --mount=type=secret,id=sources.list \
    list=/run/secrets/sources.list; \
    if [ -e $list ]; then set -- -o Dir::Etc::SourceList=$list -o Dir::Etc::SourceParts=-; fi; \
    command -v strip >/dev/null || { apt-get "$@" update -qq \
    && apt-get "$@" install -y -qq --no-install-recommends binutils; }

COPY requirements.txt requirements-cpu.txt /build/

# TensorFlow in its build for CPUs, which is the same release under another name: half the size, and
# no job here has a GPU. A `pip check` would miss it under its own name, and libclang, but no more.
#
# Likewise, give pip its index and certificates: --secret id=pip.conf,src=/etc/pip.conf
# --secret id=ca.crt,src=bundle.crt
#
# - Sources, headers and libclang are only needed to compile extensions, the packages' own tests
#   nowhere, and of Amazon's services only the store and the ways to log in to it.
# - Libraries whose names were changed when they were packed, below *.libs, do not load once stripped.
# - Bytecode that is not checked against its source's time stamp cannot go stale when files are
#   copied, and nobody edits the code in an image.
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    export PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_DISABLE_PIP_VERSION_CHECK=1; \
    if [ -e /run/secrets/ca.crt ]; then export PIP_CERT=/run/secrets/ca.crt; fi; \
    sed '/^\(tensorflow\|libclang\)==/,/[^\\]$/d' /build/requirements.txt >/build/others.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-cache-dir \
        --require-hashes --no-deps --no-compile -r /build/others.txt -r /build/requirements-cpu.txt \
    && cd /opt/venv/lib/python3*/site-packages \
    && rm -rf tensorflow/include \
    && find numpy scipy sklearn pandas matplotlib -type d -name tests -prune -exec rm -rf {} + \
    && find . -name '*.c' -o -name '*.h' -o -name '*.py[xi]' -o -name '*.pxd' | xargs rm \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d -regextype posix-extended \
        ! -regex '.*/(s3|sts|sso|sso-oidc|signin)' -exec rm -rf {} + \
    && find . -name '*.so*' -type f ! -path '*.libs/*' -exec strip --strip-unneeded {} + \
    && /opt/venv/bin/python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash .


# ---- the project itself, as an installed package ------------------------------------------------

FROM packages AS project

WORKDIR /build
COPY pyproject.toml README.md ./
COPY fmnist fmnist
COPY flows /app/flows
COPY deployments /app/deployments

# Built with the locked setuptools, so no network is needed. It goes into a separate tree, so that a
# change of the code does not copy the packages again.
RUN /opt/pip/bin/pip --python /opt/venv/bin/python install --quiet --no-cache-dir --no-index \
        --no-deps --no-build-isolation --no-compile --prefix /project . \
    && python3 -m compileall -q -f --invalidation-mode unchecked-hash \
        -s /project -p /opt/venv /project \
    && python3 -m compileall -q -f --invalidation-mode unchecked-hash /app


# ---- the image ----------------------------------------------------------------------------------

FROM ${BASE}

# By number, because only from a number can Kubernetes tell that a user is not root.
RUN groupadd --gid 10001 fmnist \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home \
        --home-dir /var/lib/fmnist --shell /usr/sbin/nologin fmnist \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/fmnist

COPY --from=packages /opt/venv /opt/venv
COPY --from=project /project /opt/venv
COPY --from=project /app /app

# Everything that any program writes goes into the volume. TMPDIR is the volume itself, because a
# folder in it does not exist while the volume is empty. The Prefect server copies its UI's files
# when it starts, by default to a place beside its code.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/fmnist \
    TMPDIR=/var/lib/fmnist \
    XDG_CACHE_HOME=/var/lib/fmnist/cache \
    MPLCONFIGDIR=/var/lib/fmnist/cache/matplotlib \
    KERAS_HOME=/var/lib/fmnist/keras \
    PREFECT_HOME=/var/lib/fmnist/prefect \
    PREFECT_UI_STATIC_DIRECTORY=/var/lib/fmnist/prefect-ui \
    FMNIST_STORE__URL=/var/lib/fmnist/store

VOLUME /var/lib/fmnist
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM

# No entry point, because Prefect's workers give their own command; and no shell around this one, so
# that signals reach the job.
CMD ["python", "flows/train.py"]

# Last, because it changes with every commit.
ARG SOURCE_COMMIT=
ENV SOURCE_COMMIT=${SOURCE_COMMIT}
LABEL org.opencontainers.image.title="fmnist-training" \
      org.opencontainers.image.description="A workflow-orchestrated, scheduled training job for Fashion-MNIST" \
      org.opencontainers.image.revision="${SOURCE_COMMIT}"

# bellwether as an image: one static binary, no shell, nobody's root.
#
#   docker build -t bellwether .                       # builds the binary in BUILD_BASE
#   make image ARGS=--prebuilt                         # takes the binary that this machine builds; no network
#
# The base images are arguments, so that the very same file builds where no registry can be reached
# (RUNTIME_BASE=scratch) and where only one's own may be used.
ARG BUILD_BASE=docker.io/library/rust:1-bookworm
ARG RUNTIME_BASE=gcr.io/distroless/static-debian12:nonroot
# build: from the sources. prebuilt: target/image/bellwether of the context.
ARG BINARY=build

FROM ${BUILD_BASE} AS build
# etcd-client generates its messages when it is built.
RUN apt-get update \
 && apt-get install -y --no-install-recommends protobuf-compiler libprotobuf-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG COMMIT=unknown
# glibc can be linked statically, and resolves names without any file of its own; its allocator is the
# faster one under threads. With --target, build scripts and macros stay dynamic, as they must.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
 && BELLWETHER_COMMIT="${COMMIT}" RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --locked --profile dist --features cli --bin bellwether --target "${target}" \
 && install -D "target/${target}/dist/bellwether" /out/bellwether

FROM scratch AS prebuilt
COPY target/image/bellwether /out/bellwether

FROM ${BINARY} AS binary

FROM ${RUNTIME_BASE}
ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="bellwether" \
      org.opencontainers.image.description="Highly available Kubernetes controllers: fenced leader election over the Kubernetes API or etcd, shard work on the followers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY LICENSE /usr/share/doc/bellwether/LICENSE
COPY --from=binary /out/bellwether /usr/bin/bellwether
ENV PATH=/usr/bin BELLWETHER_LISTEN=0.0.0.0:8080
EXPOSE 8080
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
# Process 1 ends a crashed node's incarnation at once.
ENTRYPOINT ["bellwether", "supervise", "--", "bellwether", "run"]

# The image, for those who build with Docker. `make image` makes the same without it: both get their files from
# deploy/image/rootfs.sh, and `make image` reads what is said below the last FROM.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin batchjob-operator
RUN apt-get update && deploy/image/rootfs.sh target/release/batchjob-operator /image

FROM scratch
COPY --from=build /image /
LABEL org.opencontainers.image.title="batchjob-operator"
LABEL org.opencontainers.image.description="A Kubernetes operator for LLM batch processing: never pays twice, never loses a line."
LABEL org.opencontainers.image.version="0.1.0"
LABEL org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/batchjob-operator"]

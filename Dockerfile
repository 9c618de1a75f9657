# One image for a node and for the shop that it heals. The second stage holds what a runner calls
# (bubblewrap, python3) and no compiler.
FROM rust:1.95-bookworm AS build
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends g++ make libclang-dev libssl-dev pkg-config \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --locked --release --bin healwright

FROM debian:bookworm-slim
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends \
    bubblewrap ca-certificates curl libssl3 procps python3 python3-venv tini \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 1000 healwright \
  && install -d -o healwright -g healwright /data /shared
COPY --from=build /source/target/release/healwright /usr/local/bin/
USER healwright
VOLUME ["/data", "/shared"]
# Services outlive a runner and are then nobody's children: tini reaps them.
ENTRYPOINT ["tini", "--", "healwright"]
CMD ["--help"]

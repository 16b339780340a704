# Two images: the server (the default) and, with `--target frontend`, the page as static files.
# Everything comes from the lock files; for builds that are the same to the byte, pin the base images by digest.
ARG RUST=1.95
ARG NODE=24

FROM docker.io/library/node:${NODE}-bookworm-slim AS page
WORKDIR /src/frontend
COPY frontend/package.json frontend/package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY frontend ./
RUN npm run check && npm run build

FROM docker.io/library/rust:${RUST}-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY --from=page /src/frontend/dist frontend/dist
# What is compiled stays in a cache, out of the layers. Cargo compares times, and files keep theirs in COPY: without the
# touch, a source that was edited while an earlier build ran would count as compiled.
RUN --mount=type=cache,target=/src/target \
    --mount=type=cache,target=/usr/local/cargo/registry \
    find src -type f -exec touch {} + && \
    cargo build --release --locked --bin quicket && cp target/release/quicket /quicket

FROM docker.io/nginxinc/nginx-unprivileged:1.29-alpine AS frontend
COPY docker/frontend.conf /etc/nginx/nginx.conf
COPY --from=page /src/frontend/dist /usr/share/nginx/html
USER 101:101
EXPOSE 8080/tcp
ENTRYPOINT ["nginx", "-g", "daemon off;"]

# libc and libgcc, no shell; 65532 is its user `nonroot`
FROM gcr.io/distroless/cc-debian12:nonroot AS server
COPY --from=build /quicket /quicket
USER 65532:65532
EXPOSE 3000/tcp 3000/udp
# PID 1: it handles SIGTERM itself
ENTRYPOINT ["/quicket"]

"""The consortium's side: services, registry, intake, approvals, builds, releases, revocation."""

import pki  # noqa: F401 - before any module here imports gRPC: it leaves TLS 1.3 only

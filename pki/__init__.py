"""Who is who: CA, identities, certificate policy, key storage, enrolment."""

import os
import sys

# gRPC reads its cipher suites once, at import: whatever imports it first decides for the process.
GRPC_CAME_FIRST = "grpc" in sys.modules
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
# gRPC would let `no_proxy` lead a channel past the proxy that its configuration names.
os.environ["no_grpc_proxy"] = ""  # noqa: SIM112 - gRPC's own spelling

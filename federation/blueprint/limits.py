"""Named limits of the blueprint format, each with its reason (docs/blueprint-format.md)."""

MAX_STATEMENT_BYTES = 64 * 1024  # a statement is about 4 KB; a certificate adds 1 KB
MAX_ENVELOPE_BYTES = 128 * 1024  # base64 of the statement and one signature
MAX_PAYLOAD_BYTES = 32 << 20  # 16 M bfloat16 parameters; opened and resealed within 256 MB
MAX_TENSORS = 4096  # the largest preset has a few hundred
MAX_ARCHITECTURE_BYTES = 4096  # seven short fields
MAX_ABS_WEIGHT = 1.0e4  # trained weights stay below 100; beyond this the network only saturates
MAX_TENSOR_NORM = 1.0e5  # Euclidean, per tensor
MAX_VALIDITY_DAYS = 30  # from issued to expires
MAX_CLOCK_SKEW_S = 600  # a hospital's clock may run ten minutes ahead
MAX_DP_EVENTS = 8  # counts, a warm-up and the training are two or three; each is recomputed
MAX_DP_WORK = 101.0  # sum of 1 / sigma^2: all events cost as much as one of the least noise, 0.1
MAX_SEQUENCE = 1 << 40  # submissions of one site to one study
EPSILON_TOLERANCE = 1e-3  # relative; both sides run the same arithmetic on different machines

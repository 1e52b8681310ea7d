"""The files of a run folder, by name; light enough for commands that never train."""

OPTIONS, METRICS, SAMPLES = "options.json", "metrics.jsonl", "samples.png"
PRIVACY, WEIGHTS, ARCHITECTURE = "privacy.json", "weights.safetensors", "architecture.json"
ERASED, LOCK = "erased.json", ".lock"  # a patient's erasure emptied it; a process works in it
HELD_OUT, GATE = "held-out.json", "gate.json"
REQUEST = "request.json"  # what `train` was asked for, so that it can be asked again

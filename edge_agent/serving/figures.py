"""Prometheus metrics of `serve`, under the names that Triton Inference Server gives them.

Triton's counters do not end in `_total`, which `prometheus_client` would append; the few lines of
the text format (version 0.0.4) are written here. Labels are names and digests of closed character
sets, so nothing has to be escaped. No figure says anything about an image.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter_ns

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "nv_inference_request_success": "Number of successful inference requests, all batch sizes",
    "nv_inference_request_failure": "Number of failed inference requests, all batch sizes",
    "nv_inference_count": "Number of inferences performed (does not include cached requests)",
    "nv_inference_exec_count": "Number of model executions performed",
    "nv_inference_request_duration_us": "Cumulative inference request duration in microseconds",
    "nv_inference_compute_input_duration_us": "Cumulative compute input duration in microseconds",
    "nv_inference_compute_infer_duration_us": "Cumulative compute inference duration in us",
    "nv_inference_compute_output_duration_us": "Cumulative inference output duration in us",
    "edge_agent_shadow_images": "Images that a shadow release answered as well",
    "edge_agent_shadow_agreements": "Images for which the shadow release named the same label",
    "edge_agent_shadow_failures": "Requests that the shadow release could not answer",
    "edge_agent_shadow_dropped": "Requests that the shadow release was too busy for",
    "edge_agent_refused_requests": "Requests refused before any model: host, origin, path, method",
}
_GAUGES = {
    "nv_inference_pending_request_count": "Number of inference requests in work",
    "edge_agent_release_ready": "Whether a release answers for the model; 0 says that none does",
}
Key = tuple[tuple[str, str], ...]


class Figures:
    """Counts and durations, each by model and version; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Key, int]] = defaultdict(lambda: defaultdict(int))

    def add(self, name: str, labels: Mapping[str, str], amount: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._values[name][tuple(labels.items())] += amount

    def set(self, name: str, values: dict[Key, int]) -> None:
        """Give a gauge all its values."""
        with self._lock:
            self._values[name] = defaultdict(int, values)

    @contextmanager
    def timed(self, name: str, labels: Mapping[str, str]) -> Iterator[None]:
        """Add the microseconds of a block to a counter, if it ends well."""
        started = perf_counter_ns()
        yield
        self.add(name, labels, (perf_counter_ns() - started) // 1000)

    @contextmanager
    def pending(self, labels: Mapping[str, str]) -> Iterator[None]:
        """Count a request as in work while a block runs."""
        self.add("nv_inference_pending_request_count", labels)
        try:
            yield
        finally:
            self.add("nv_inference_pending_request_count", labels, -1)

    def text(self) -> bytes:
        """Return every figure in Prometheus' text format."""
        with self._lock:
            values = {name: dict(found) for name, found in self._values.items()}
        kinds = {**dict.fromkeys(_COUNTERS, "counter"), **dict.fromkeys(_GAUGES, "gauge")}
        lines = []
        for name, words in {**_COUNTERS, **_GAUGES}.items():
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kinds[name]}"]
            for labels, value in sorted(values.get(name, {}).items()):
                shown = ",".join(f'{key}="{text}"' for key, text in labels)
                lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")
        return ("\n".join(lines) + "\n").encode()

"""Answering on loopback with the accepted release: the Open Inference Protocol, without torch."""

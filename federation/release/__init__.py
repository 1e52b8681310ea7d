"""What a build publishes and what a revocation takes back: lineage, statements, the ONNX lint."""

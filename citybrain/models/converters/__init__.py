"""Converters: one framework's own file to ONNX. They run only inside admission's sandbox."""

"""The formats of `modiste export`."""

from __future__ import annotations

# Format → the library that reads it, the extra that installs the library, and its packages.
FORMATS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "sentence_transformers": ("sentence-transformers ≥ 6", "sentence-transformers", ("sentence_transformers",)),
    "open_clip": ("open_clip", "open-clip", ("open_clip",)),
    "transformers": ("transformers", "", ()),
    "onnx": ("ONNX Runtime", "onnx", ("onnx", "onnxruntime", "onnxscript")),
    "transformers_js": ("transformers.js", "onnx", ("onnx", "onnxruntime", "onnxscript")),
    "openvino": ("OpenVINO", "openvino", ("openvino", "nncf")),
    "hub": ("huggingface_hub's PyTorchModelHubMixin", "", ()),
}

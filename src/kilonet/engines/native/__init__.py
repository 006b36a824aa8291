"""The native engine: training on the processor by kernels that are compiled for the network."""

from kilonet.engines.native.build import library_name, multiplies_bfloat16
from kilonet.engines.native.engine import NativeEngine, native_unavailable_reason

__all__ = ["NativeEngine", "library_name", "multiplies_bfloat16", "native_unavailable_reason"]

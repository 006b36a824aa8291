"""The native engine: training on the processor by kernels compiled for the network's list of layers."""

from kilonet.engines.native.build import library_name, multiplies_bfloat16
from kilonet.engines.native.engine import NativeEngine, native_objection

__all__ = ["NativeEngine", "library_name", "multiplies_bfloat16", "native_objection"]

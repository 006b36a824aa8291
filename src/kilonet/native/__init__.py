"""The native engine: training on the processor by kernels compiled for the network's list of layers."""

from kilonet.native.build import multiplies_bfloat16
from kilonet.native.engine import NativeEngine, native_objection

__all__ = ["NativeEngine", "multiplies_bfloat16", "native_objection"]

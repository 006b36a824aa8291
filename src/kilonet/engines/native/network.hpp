// A network as tables of tensors, operations, batch norms and values. codegen.py generates the tables of one network.
#pragma once
#include "convolution.hpp"

struct Shape {
  int channels, rows, columns;
  int padding = 0;  // rows and columns of zeros around each plane, as it is stored for a convolution
  Storage stored = Storage::float32;  // in training
  size_t plane() const { return (size_t)rows * columns; }
  size_t pitch() const { return pitch_of((size_t)(rows + 2 * padding) * (columns + 2 * padding)); }
  // Where a row of the first channel begins.
  size_t row(int y) const { return (size_t)(y + padding) * (columns + 2 * padding) + padding; }
  size_t vectors() const { return channels * pitch(); }
  size_t values() const { return channels * plane(); }
};

enum class Kind { convolution, norm, max_pool, average_pool, global_average_pool };

// Tensors are numbered: 0 is the input, and each operation adds one. Batch norms are numbered in order. -1 means none.
struct Operation {
  Kind kind;
  int input, output;  // tensors
  int norm = -1;             // convolution: the batch norm that follows; norm: the batch norm applied
  int folded_norm = -1;      // convolution: the batch norm of its input, which is folded into the weights
  int residual = -1;         // norm: the tensor added
  int pool_size = 0;         // max_pool, average_pool; norm: of the max pooling behind it, or 0
  bool has_dropout = false;  // norm: whether dropout follows
  bool needs_input_gradient = false;
  bool accumulates_input_gradient = false;  // convolution: whether its input's gradient is added to one already there
  size_t weight_offset = 0;                 // convolution: where its weights begin among all values
  Kernels kernels{};
};

// Scale, shift, running mean and running variance follow one another among all values, from `value_offset` on.
struct BatchNorm {
  int tensor;
  size_t value_offset;
};

// A range of the values: convolution weights (with weight decay), batch norm weights (without), or running statistics.
enum class ValueRole { decayed, undecayed, statistic };
struct ValueRange {
  ValueRole role;
  size_t begin, end;
};

struct Network {
  const Shape* tensors;
  int tensor_count;
  const Operation* operations;
  int operation_count;
  const BatchNorm* norms;
  int norm_count;
  const ValueRange* value_ranges;
  int value_range_count;
  size_t value_count;
};

// Defined in the generated file, which is compiled separately from the trainer.
extern const Network network;

// The table that a network is generated as: its tensors, operations, batch norms and values.
#pragma once
#include "convolution.hpp"

struct Shape {
  int channels, rows, columns;
  size_t plane() const { return (size_t)rows * columns; }
  size_t pitch() const { return pitch_of(plane()); }
  size_t vectors() const { return channels * pitch(); }
  size_t values() const { return channels * plane(); }
};

enum class Kind { convolution, norm, max_pool, average_pool };

// Tensors are numbered: 0 is the input, then one by operation. Norms are numbered in order. -1 stands for none.
struct Operation {
  Kind kind;
  int input, output;      // tensors
  int norm = -1;          // convolution: the batch norm whose statistics its output feeds; norm: the one applied
  int folded = -1;        // convolution: the batch norm between its input tensor and itself
  int residual = -1;      // norm: the tensor added
  int size = 0;           // max_pool
  bool drops = false;     // norm: whether dropout follows
  bool backward = false;  // whether the gradient of the input is wanted
  bool adds = false;      // convolution: whether that gradient is added to what is there
  size_t weights = 0;     // convolution: where its weights begin among all values
  Kernels kernels{};
};

// Its scale, shift, running mean and running variance lie one after another among all values.
struct Norm {
  int tensor;
  size_t values;
};

// A stretch of values: convolution weights (decayed), norm weights (trained) or running statistics.
enum class Role { decayed, trained, statistic };
struct Stretch {
  Role role;
  size_t begin, end;
};

struct Network {
  const Shape* tensors;
  int tensor_count;
  const Operation* operations;
  int operation_count;
  const Norm* norms;
  int norm_count;
  const Stretch* stretches;
  int stretch_count;
  size_t value_count;
};

// Of the generated file, which is compiled apart from the trainer.
extern const Network network;

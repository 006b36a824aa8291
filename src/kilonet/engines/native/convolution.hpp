// The shape of a convolution, and the kernels that are compiled for it.
#pragma once
#include "vectors.hpp"

// How a tensor and its gradient are stored: each value in float32, or in bfloat16, in halves or in pairs of channels.
enum class Storage { float32, halves, pairs };

// Those of a convolution's input and output.
struct Storages {
  Storage input, output;
};

struct Convolution {
  int channels_in, channels_out, rows, columns, kernel, padding, groups, stride = 1;
  bool stored_padded = false;  // whether the input is stored with its padding
  int output_padding = 0;      // with which the output is stored, for the next convolution
  constexpr int group_inputs() const { return channels_in / groups; }
  constexpr int group_outputs() const { return channels_out / groups; }
  constexpr int padded_rows() const { return rows + 2 * padding; }
  constexpr int padded_columns() const { return columns + 2 * padding; }
  constexpr int rows_out() const { return (padded_rows() - kernel) / stride + 1; }
  constexpr int columns_out() const { return (padded_columns() - kernel) / stride + 1; }
  // Columns of zeros on each side of the output's gradient; with them the input's gradient is a convolution too. With a
  // stride they are not part of the tensor, but of its spread copy: S - 1 columns of zeros lie between its columns there.
  constexpr int spread_border() const { return kernel - 1 - padding; }
  constexpr int border() const { return stride == 1 ? spread_border() : 0; }
  constexpr int gradient_columns() const { return columns_out() + 2 * border(); }
  constexpr int spread_columns() const { return padded_columns() - kernel + 1 + 2 * spread_border(); }
  constexpr size_t input_pitch() const { return pitch_of((size_t)padded_rows() * padded_columns()); }
  constexpr size_t group_input_vectors() const {
    return group_inputs() * (stored_padded ? input_pitch() : pitch_of((size_t)rows * columns));
  }
  constexpr size_t output_pitch() const {
    return pitch_of((size_t)(rows_out() + 2 * output_padding) * (columns_out() + 2 * output_padding));
  }
  constexpr size_t gradient_pitch() const { return pitch_of((size_t)rows_out() * gradient_columns()); }
  constexpr size_t spread_pitch() const { return pitch_of((size_t)rows_out() * spread_columns()); }
  constexpr int taps() const { return kernel * kernel; }
  constexpr size_t weight_count() const { return (size_t)channels_out * group_inputs() * taps(); }
  constexpr size_t padded_vectors() const { return group_inputs() * input_pitch(); }
  constexpr size_t spread_vectors() const { return stride == 1 ? 0 : group_outputs() * spread_pitch(); }
};

struct ForwardArguments {
  const void* input;
  Vector* padded;         // scratch memory for `padded_vectors()`
  const float* weights;   // [group][input][kernel row][kernel column][output], packed in pairs if these are multiplied
  Vector* scratch;
  const float* bias;      // by output channel
  void* output;
  Mask valid_lanes;       // lanes that hold an image
  const float* centre;    // by output channel: a value near the mean, so that the sum of squares keeps its precision
  Vector* sums;           // by output channel: sum of (output - centre), and of its square; also of lanes without an image
};

// The backward pass through batch norm and the ReLU before it. Once the sums over the batch are known, the gradient before
// the ReLU is gradient_scale * gradient + value_scale * value + offset where the ReLU's output `value` is positive, and zero
// elsewhere. One number a channel.
struct NormGradient {
  const float *gradient_scale, *value_scale, *offset;
};

struct InputGradientArguments {
  const void* gradient;  // of the output, with its border, from the first group on that is computed
  const float* weights;  // [group][output][kernel row][kernel column][input], taps reversed, packed in pairs likewise
  Vector* scratch;
  void* result;
  const void* added;     // what is added to the result, for an input that two operations read; null for nothing
  int added_from;        // the channel at which it begins
  // The rest is used only if the input's batch norm is folded into the weights.
  NormGradient norm;
  const void* values;    // the input
  int border;            // of the result
  size_t pitch;          // of the result
  Vector* channel_sums;  // sums of the result, by channel
};

struct WeightGradientArguments {
  const void* input;
  Vector* padded;        // scratch memory for `padded_vectors()`
  const void* gradient;  // of the output, with its border, from the first group on that is computed
  Vector* scratch;
  Vector* sums;  // by weight, added to
};

// The kernels of one convolution, which are compiled for its shape. Those of the backward pass compute the groups of
// channels from `begin` to `end`.
struct Kernels {
  Convolution shape;
  size_t scratch_vectors;
  // Packs weights in pairs, in place: rows of them, by channel, or the taps of a depthwise kernel. Null if the kernels of
  // training do not multiply pairs.
  void (*pair_weights)(int rows, size_t length, float* weights);
  void (*forward)(const ForwardArguments&);
  void (*float32_forward)(const ForwardArguments&);  // never multiplies pairs
  void (*input_gradient)(const InputGradientArguments&, int begin, int end);
  void (*weight_gradient)(const WeightGradientArguments&, int begin, int end);
};

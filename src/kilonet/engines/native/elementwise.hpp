// All operations except convolutions, for one group of images: batch norm, dropout, pooling and the loss. An `Element` of a
// tensor is a float32 value or a half of each image.
#pragma once
#include <algorithm>
#include <cmath>

#include "bfloat16.hpp"
#include "network.hpp"

// Source: C. Wellons, "Prospecting for hash functions", 2018, the function lowbias32.
inline uint32_t hash32(uint32_t word) {
  word = (word ^ word >> 16) * 0x7feb352du;
  word = (word ^ word >> 15) * 0x846ca68bu;
  return word ^ word >> 16;
}

// Dropout with a counter-based generator: whether an element is dropped depends only on the seed, the step, the layer, the
// image's place in the batch and the element.
struct Dropout {
  bool active = false;
  uint32_t drop_below = 0;  // an element is dropped if its random 32-bit word is below this
  float scale = 1;
  Words keys{};  // by image

  Mask kept(uint32_t element) const {
    Words word = keys + element * 0x9e3779b9u;
    word = (word ^ word >> 16) * 0x7feb352du;
    word = (word ^ word >> 15) * 0x846ca68bu;
    return (Mask)(word >= drop_below);
  }
};

// An affine map for each channel, which is what batch norm is once its statistics are known.
struct ChannelAffine {
  const float *scale, *shift;
};

// Computes output = dropout(affine(input)) + residual. Dropout may be inactive and the residual null; only the residual may
// have padding, as `residual_shape` says.
template <class Element>
inline void apply_batch_norm(Shape shape, const Element* input, ChannelAffine affine, const Dropout& dropout,
                             Shape residual_shape, const Element* residual, Element* output) {
  for (int c = 0; c < shape.channels; c++) {
    const Vector scale = broadcast(affine.scale[c] * dropout.scale), shift = broadcast(affine.shift[c] * dropout.scale);
    for (int y = 0; y < shape.rows; y++) {
      const size_t first = c * shape.pitch() + shape.row(y);
      const Element* added = residual ? residual + c * residual_shape.pitch() + residual_shape.row(y) : nullptr;
      for (int x = 0; x < shape.columns; x++) {
        Vector value = scale * loaded(input + first + x) + shift;
        if (dropout.active) value = masked(dropout.kept(first + x), value);
        put(output + first + x, added ? value + loaded(added + x) : value);
      }
    }
  }
}

// A sum of vectors in four parts, as an addition to a part has to wait for the one before it.
struct Sum {
  Vector parts[4]{};
  float of_lanes() const { return sum_of_lanes((parts[0] + parts[1]) + (parts[2] + parts[3])); }
};

// Calls work(i, part) for every i below `count`, where `part` is the part of a sum that it adds to.
template <class Work>
[[gnu::always_inline]] inline void for_parts(size_t count, Work work) {
  size_t i = 0;
  for (; i + 4 <= count; i += 4) work(i, 0), work(i + 1, 1), work(i + 2, 2), work(i + 3, 3);
  for (; i < count; i++) work(i, 0);
}

// Returns the gradient before dropout of an element whose gradient after it is given.
inline Vector backward_dropout(const Dropout& dropout, Vector gradient, size_t element) {
  return dropout.active ? masked(dropout.kept(element), gradient * dropout.scale) : gradient;
}

// Adds up what batch norm needs of a channel for its backward pass. `gradient` is the channel's plane; adds to `sums` the sum
// of the gradient before dropout, and the sum of its products with (value - mean).
template <class Element>
inline void backward_norm_sums(Shape shape, int channel, const Element* gradient, const Element* values, float mean,
                               const Dropout& dropout, float* sums) {
  const Vector centre = broadcast(mean);
  const size_t begin = channel * shape.pitch();
  Sum sum, product;
  for_parts(shape.plane(), [&](size_t i, int part) {
    const Vector result = backward_dropout(dropout, loaded(gradient + i), begin + i);
    sum.parts[part] += result;
    product.parts[part] += result * (loaded(values + begin + i) - centre);
  });
  sums[0] += sum.of_lanes();
  sums[1] += product.of_lanes();
}

// Turns the gradient after dropout of a channel into the one before the ReLU, with `border` columns on both sides of each row,
// and returns the result's sum. `gradient` and `result` are the channel's planes.
template <class Element>
inline float backward_norm_and_relu(Shape shape, int channel, const Element* gradient, const Element* values,
                                    const Dropout& dropout, NormGradient norm, int border, Element* result) {
  const Vector gradient_scale = broadcast(norm.gradient_scale[channel]), value_scale = broadcast(norm.value_scale[channel]);
  const Vector offset = broadcast(norm.offset[channel]);
  Sum total;
  for (int y = 0; y < shape.rows; y++) {
    const size_t own = (size_t)y * shape.columns, first = channel * shape.pitch() + own;
    Element* row = result + (size_t)y * (shape.columns + 2 * border) + border;
    for_parts(shape.columns, [&](size_t x, int part) {
      const Vector value = loaded(values + first + x);
      const Vector before = backward_dropout(dropout, loaded(gradient + own + x), first + x);
      const Vector found = masked(value > 0, gradient_scale * before + (value_scale * value + offset));
      put(row + x, found);
      total.parts[part] += found;
    });
  }
  return total.of_lanes();
}

// Adds the sums of the channels from `begin` to `end`.
template <class Element>
inline void add_channel_sums(Shape shape, int begin, int end, const Element* gradient, float* channel_sums) {
  for (int c = begin; c < end; c++) {
    Sum total;
    for_parts(shape.plane(), [&](size_t i, int part) { total.parts[part] += loaded(gradient + c * shape.pitch() + i); });
    channel_sums[c] += total.of_lanes();
  }
}

template <class Element>
[[gnu::always_inline]] inline void max_pool_windows(Shape from, Shape to, int size, const Element* input, Element* output) {
  for (int c = 0; c < from.channels; c++)
    for (int y = 0; y < to.rows; y++)
      for (int x = 0; x < to.columns; x++) {
        const Element* corner = input + c * from.pitch() + (size_t)y * size * from.columns + (size_t)x * size;
        Vector highest = loaded(corner);
#pragma GCC unroll 2
        for (int j = 0; j < size; j++)
#pragma GCC unroll 2
          for (int i = 0; i < size; i++) {
            const Vector value = loaded(corner + (size_t)j * from.columns + i);
            highest = (highest < value) | (value != value) ? value : highest;
          }
        put(output + c * to.pitch() + y * to.columns + x, highest);
      }
}

// Gives each gradient to the first maximum of its window.
template <class Element>
[[gnu::always_inline]] inline void max_pool_gradient_windows(Shape from, Shape to, int size, const Element* input,
                                                             const Element* output, const Element* gradient,
                                                             Element* result) {
  if (from.rows % size || from.columns % size) std::fill_n(result, from.vectors(), Element{});
  for (int c = 0; c < from.channels; c++)
    for (int y = 0; y < to.rows; y++)
      for (int x = 0; x < to.columns; x++) {
        const size_t corner = c * from.pitch() + (size_t)y * size * from.columns + (size_t)x * size;
        const size_t window = c * to.pitch() + y * to.columns + x;
        const Vector highest = loaded(output + window), whole = loaded(gradient + window);
        Mask open = Mask{} == 0;
#pragma GCC unroll 2
        for (int j = 0; j < size; j++)
#pragma GCC unroll 2
          for (int i = 0; i < size; i++) {
            const size_t place = corner + (size_t)j * from.columns + i;
            const Mask taken = open & (loaded(input + place) == highest);
            put(result + place, masked(taken, whole));
            open &= ~taken;
          }
      }
}

// Where the first maximum of a window is, by image: row * size + column.
typedef uint8_t Places __attribute__((vector_size(lanes)));

template <class Element>
[[gnu::always_inline]] inline void norm_and_max_pool_windows(Shape from, Shape to, int size, const Element* input,
                                                             ChannelAffine affine, Shape residual_shape,
                                                             const Element* residual, Element* output, Places* places) {
  for (int c = 0; c < from.channels; c++) {
    const Vector scale = broadcast(affine.scale[c]), shift = broadcast(affine.shift[c]);
    for (int y = 0; y < to.rows; y++)
      for (int x = 0; x < to.columns; x++) {
        Vector highest{};
        Mask place{};
#pragma GCC unroll 2
        for (int j = 0; j < size; j++) {
          const Element* row = input + c * from.pitch() + from.row(y * size + j) + (size_t)x * size;
          const Element* added =
              residual ? residual + c * residual_shape.pitch() + residual_shape.row(y * size + j) + (size_t)x * size : nullptr;
#pragma GCC unroll 2
          for (int i = 0; i < size; i++) {
            Vector value = scale * loaded(row + i) + shift;
            if (added) value += loaded(added + i);
            const Mask higher = (Mask{} == (i + j)) | (highest < value) | (value != value);
            highest = higher ? value : highest;
            place = higher ? Mask{} + (j * size + i) : place;
          }
        }
        const size_t window = c * to.plane() + (size_t)y * to.columns + x;
        put(output + c * to.pitch() + (size_t)y * to.columns + x, highest);
        places[window] = __builtin_convertvector(place, Places);
      }
  }
}

template <class Element>
[[gnu::always_inline]] inline void spread_pool_gradient_windows(Shape from, Shape to, int size, const Element* gradient,
                                                                const Places* places, Element* plane) {
  for (int y = 0; y < to.rows; y++)
    for (int x = 0; x < to.columns; x++) {
      const Vector whole = loaded(gradient + (size_t)y * to.columns + x);
      const Mask place = __builtin_convertvector(places[(size_t)y * to.columns + x], Mask);
      Element* corner = plane + (size_t)y * size * from.columns + (size_t)x * size;
#pragma GCC unroll 2
      for (int j = 0; j < size; j++)
#pragma GCC unroll 2
        for (int i = 0; i < size; i++)
          put(corner + (size_t)j * from.columns + i, masked(place == j * size + i, whole));
    }
}

// Computes output = max pooling of (affine(input) + residual), which is not written itself, and the place of each maximum.
template <class Element>
inline void apply_batch_norm_and_max_pool(Shape from, Shape to, int size, const Element* input, ChannelAffine affine,
                                          Shape residual_shape, const Element* residual, Element* output, Places* places) {
  size == 2 ? norm_and_max_pool_windows(from, to, 2, input, affine, residual_shape, residual, output, places)
            : norm_and_max_pool_windows(from, to, size, input, affine, residual_shape, residual, output, places);
}

// Writes the gradient of a channel's plane before max pooling: that of each window at the place of its maximum, and zero
// elsewhere. `gradient` and `places` are those of the channel's windows.
template <class Element>
inline void spread_pool_gradient(Shape from, Shape to, int size, const Element* gradient, const Places* places,
                                 Element* plane) {
  if (from.rows % size || from.columns % size) std::fill_n(plane, from.plane(), Element{});
  size == 2 ? spread_pool_gradient_windows(from, to, 2, gradient, places, plane)
            : spread_pool_gradient_windows(from, to, size, gradient, places, plane);
}

// The usual window size gets its own loops, which the compiler unrolls.
template <class Element>
inline void max_pool(Shape from, Shape to, int size, const Element* input, Element* output) {
  size == 2 ? max_pool_windows(from, to, 2, input, output) : max_pool_windows(from, to, size, input, output);
}

template <class Element>
inline void max_pool_gradient(Shape from, Shape to, int size, const Element* input, const Element* output,
                              const Element* gradient, Element* result) {
  size == 2 ? max_pool_gradient_windows(from, to, 2, input, output, gradient, result)
            : max_pool_gradient_windows(from, to, size, input, output, gradient, result);
}

// The mean over windows that do not overlap. Remaining rows and columns at the end are dropped.
template <class Element>
inline void average_pool(Shape from, Shape to, int size, const Element* input, Element* output) {
  for (int c = 0; c < from.channels; c++)
    for (int y = 0; y < to.rows; y++)
      for (int x = 0; x < to.columns; x++) {
        const Element* corner = input + c * from.pitch() + (size_t)y * size * from.columns + (size_t)x * size;
        Vector sum{};
        for (int j = 0; j < size; j++)
          for (int i = 0; i < size; i++) sum += loaded(corner + (size_t)j * from.columns + i);
        put(output + c * to.pitch() + y * to.columns + x, sum / (float)(size * size));
      }
}

template <class Element>
inline void average_pool_gradient(Shape from, Shape to, int size, const Element* gradient, Element* result) {
  if (from.rows % size || from.columns % size) std::fill_n(result, from.vectors(), Element{});
  for (int c = 0; c < from.channels; c++)
    for (int y = 0; y < to.rows; y++)
      for (int x = 0; x < to.columns; x++) {
        Element* corner = result + c * from.pitch() + (size_t)y * size * from.columns + (size_t)x * size;
        const Vector share = loaded(gradient + c * to.pitch() + y * to.columns + x) / (float)(size * size);
        for (int j = 0; j < size; j++)
          for (int i = 0; i < size; i++) put(corner + (size_t)j * from.columns + i, share);
      }
}

template <class Element>
inline void global_average_pool(Shape from, const Element* input, Vector* output) {
  for (int c = 0; c < from.channels; c++) {
    Vector sum{};
    for (size_t i = 0; i < from.plane(); i++) sum += loaded(input + c * from.pitch() + i);
    output[c] = sum / (float)from.plane();
  }
}

template <class Element>
inline void global_average_pool_gradient(Shape from, const Vector* gradient, Element* result) {
  for (int c = 0; c < from.channels; c++)
    for (size_t i = 0; i < from.plane(); i++) put(result + c * from.pitch() + i, gradient[c] / (float)from.plane());
}

struct LossSums {
  double loss = 0;
  int64_t correct = 0;
};

// The labels of an image: its own and, where it is mixed with another, the other's. The shares add up to 1.
struct MixedLabel {
  int64_t own, other;
  double own_share, other_share;
};

// Returns the softmax cross-entropy of one image with label smoothing, and writes the gradient of `weight` times the loss.
// Logits and gradient are `lanes` floats apart.
inline double cross_entropy_and_gradient(const float* logits, int classes, MixedLabel label, float smoothing, float weight,
                                         float* gradient) {
  double highest = logits[0], total = 0, sum = 0;
  for (int k = 0; k < classes; k++) highest = std::max(highest, (double)logits[k * lanes]);
  for (int k = 0; k < classes; k++) {
    gradient[k * lanes] = std::exp(logits[k * lanes] - (float)highest);
    total += gradient[k * lanes];
    sum += logits[k * lanes];
  }
  const double log_sum_exp = highest + std::log(total), uniform = smoothing / classes;
  for (int k = 0; k < classes; k++) {
    const double share = (k == label.own ? label.own_share : 0) + (k == label.other ? label.other_share : 0);
    const double target = uniform + (1 - smoothing) * share;
    gradient[k * lanes] = (float)((gradient[k * lanes] / total - target) * weight);
  }
  const double mixed = label.own_share * logits[label.own * lanes] + label.other_share * logits[label.other * lanes];
  return log_sum_exp - (1 - smoothing) * mixed - uniform * sum;
}

// Computes softmax(logits / temperature) of one image and calls use(class, probability) for each class.
template <class Use>
inline void softmax_at_temperature(const float* logits, int classes, double temperature, Use use) {
  double highest = logits[0], total = 0;
  for (int k = 0; k < classes; k++) highest = std::max(highest, (double)logits[k * lanes]);
  const auto power = [&](int k) { return std::exp((float)((logits[k * lanes] - highest) / temperature)); };
  for (int k = 0; k < classes; k++) total += power(k);
  for (int k = 0; k < classes; k++) use(k, power(k) / total);
}

// What a group learns from teachers in addition to its labels. The gradient of
//   (1 - weight) * cross-entropy + weight * temperature^2 * KL(targets || softmax(logits / temperature))
// with respect to a logit is
//   (1 - weight) * (softmax - label) + weight * temperature * (softmax at the temperature - target).
// Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015.
struct SoftTargets {
  double temperature, weight;
  const Vector* probabilities;  // by class, at the temperature; null without a teacher, and the weight is then zero
};

// Writes the gradient of `share` times the loss of each of a group's `count` images, whose cross-entropies with the labels
// have weights; it is zero in the other lanes. Returns the sum of the images' weighted cross-entropies with the labels alone,
// and the number of correct images.
inline LossSums loss_and_gradient(const Vector* logits, int classes, const MixedLabel* labels, const float* weights, int count,
                                  float smoothing, float share, SoftTargets soft, Vector* gradient) {
  LossSums result;
  std::fill_n(gradient, classes, Vector{});
  for (int l = 0; l < count; l++) {
    const float* own = (const float*)logits + l;
    int best = 0;
    for (int k = 1; k < classes; k++)
      if (own[k * lanes] > own[best * lanes]) best = k;
    float* own_gradient = (float*)gradient + l;
    const double loss = cross_entropy_and_gradient(own, classes, labels[l], smoothing,
                                                   (float)(share * weights[l] * (1 - soft.weight)), own_gradient);
    result.loss += weights[l] * loss;
    // With a logit that is not a number the comparisons above are all false, and class 0 would seem to be the answer.
    result.correct += best == labels[l].own && std::isfinite(loss);
    if (!soft.probabilities) continue;
    const double factor = share * soft.weight * soft.temperature;
    softmax_at_temperature(own, classes, soft.temperature, [&](int k, double probability) {
      own_gradient[k * lanes] += (float)(factor * (probability - soft.probabilities[k][l]));
    });
  }
  return result;
}

// Everything but convolutions, for one group of images: augmentation, batch norm, dropout, pooling and the loss.
#pragma once
#include <algorithm>
#include <cmath>

#include "network.hpp"

inline uint32_t scrambled(uint32_t word) {
  word = (word ^ word >> 16) * 0x7feb352du;
  word = (word ^ word >> 15) * 0x846ca68bu;
  return word ^ word >> 16;
}

// A counter-based generator: what is dropped depends on the seed, the step, the layer, the image's place in the batch
// and the element alone.
struct Dropout {
  bool active = false;
  uint32_t below = 0;  // of 2^32 equally likely words, how many drop
  float scale = 1;
  Words keys{};        // by image

  Mask kept(uint32_t element) const {
    Words word = keys + element * 0x9e3779b9u;
    word = (word ^ word >> 16) * 0x7feb352du;
    word = (word ^ word >> 15) * 0x846ca68bu;
    return (Mask)(word >= below);
  }
};

// An affine map per channel: what batch norm does once its statistics are known.
struct Affine {
  const float *scale, *shift;
};

// output = dropout(affine(input)) + residual, where dropout and residual may be absent.
inline void apply_norm(Shape shape, const Vector* input, Affine affine, const Dropout& dropout, const Vector* residual,
                       Vector* output) {
  for (int c = 0; c < shape.channels; c++) {
    const Vector scale = all(affine.scale[c] * dropout.scale), shift = all(affine.shift[c] * dropout.scale);
    for (size_t i = c * shape.pitch(); i < c * shape.pitch() + shape.plane(); i++) {
      Vector value = scale * input[i] + shift;
      if (dropout.active) value = only(dropout.kept(i), value);
      output[i] = residual ? value + residual[i] : value;
    }
  }
}

// From the gradient behind batch norm and dropout to the one behind batch norm, with `border` columns around each row,
// and to the two sums of batch norm's backward pass: of that gradient, and of it times the distance from the mean.
inline void apply_norm_gradient(Shape shape, const Vector* gradient, const Vector* values, const float* mean,
                                const Dropout& dropout, int border, Vector* output, float* sums) {
  const int columns = shape.columns + 2 * border;
  const size_t pitch = pitch_of((size_t)shape.rows * columns);
  for (int c = 0; c < shape.channels; c++) {
    const Vector centre = all(mean[c]);
    Vector sum{}, product{};
    size_t i = c * shape.pitch();
    for (int y = 0; y < shape.rows; y++)
      for (int x = 0; x < shape.columns; x++, i++) {
        Vector result = gradient[i];
        if (dropout.active) result = only(dropout.kept(i), result * dropout.scale);
        output[c * pitch + y * columns + border + x] = result;
        sum += result;
        product += result * (values[i] - centre);
      }
    sums[2 * c] += sum_of_lanes(sum);
    sums[2 * c + 1] += sum_of_lanes(product);
  }
}

// From the gradient behind batch norm to the one before the ReLU, in place; adds its sum by channel to `totals`.
inline void norm_gradient(Shape shape, const Vector* values, NormGradient norm, int border, Vector* gradient, float* totals) {
  const int columns = shape.columns + 2 * border;
  const size_t pitch = pitch_of((size_t)shape.rows * columns);
  for (int c = 0; c < shape.channels; c++) {
    const Vector slope = all(norm.slope[c]), offset = all(norm.offset[c]), incline = all(norm.incline[c]);
    Vector total{};
    for (int y = 0; y < shape.rows; y++)
      for (int x = 0; x < shape.columns; x++) {
        const Vector value = values[c * shape.pitch() + y * shape.columns + x];
        Vector* place = gradient + c * pitch + y * columns + border + x;
        *place = only(value > 0, slope * *place + (incline * value + offset));
        total += *place;
      }
    totals[c] += sum_of_lanes(total);
  }
}

inline void add_totals(Shape shape, const Vector* gradient, float* totals) {
  for (int c = 0; c < shape.channels; c++) {
    Vector total{};
    for (size_t i = 0; i < shape.plane(); i++) total += gradient[c * shape.pitch() + i];
    totals[c] += sum_of_lanes(total);
  }
}

// Surrounds each channel with `padding` rows and columns of zeros, which `output` holds already.
inline void pad(Shape shape, const Vector* input, int padding, Vector* output) {
  const int columns = shape.columns + 2 * padding;
  const size_t pitch = pitch_of((size_t)(shape.rows + 2 * padding) * columns);
  for (int c = 0; c < shape.channels; c++)
    for (int y = 0; y < shape.rows; y++)
      std::copy_n(input + c * shape.pitch() + (size_t)y * shape.columns, shape.columns,
                  output + c * pitch + (size_t)(y + padding) * columns + padding);
}

[[gnu::always_inline]] inline void max_pool_windows(Shape from, Shape to, int size, const Vector* input, Vector* output) {
  for (int c = 0; c < from.channels; c++)
    for (int y = 0; y < to.rows; y++)
      for (int x = 0; x < to.columns; x++) {
        const Vector* corner = input + c * from.pitch() + (size_t)y * size * from.columns + (size_t)x * size;
        Vector highest = corner[0];
#pragma GCC unroll 2
        for (int j = 0; j < size; j++)
#pragma GCC unroll 2
          for (int i = 0; i < size; i++) {
            const Vector value = corner[(size_t)j * from.columns + i];
            highest = (highest < value) | (value != value) ? value : highest;
          }
        output[c * to.pitch() + y * to.columns + x] = highest;
      }
}

// Hands each gradient to the first maximum of its window.
[[gnu::always_inline]] inline void max_pool_gradient_windows(Shape from, Shape to, int size, const Vector* input, const Vector* output,
                              const Vector* gradient, Vector* result) {
  if (from.rows % size || from.columns % size) std::fill_n(result, from.vectors(), Vector{});
  for (int c = 0; c < from.channels; c++)
    for (int y = 0; y < to.rows; y++)
      for (int x = 0; x < to.columns; x++) {
        const size_t corner = c * from.pitch() + (size_t)y * size * from.columns + (size_t)x * size;
        const size_t window = c * to.pitch() + y * to.columns + x;
        const Vector highest = output[window], whole = gradient[window];
        Mask open = Mask{} == 0;
#pragma GCC unroll 2
        for (int j = 0; j < size; j++)
#pragma GCC unroll 2
          for (int i = 0; i < size; i++) {
            const size_t place = corner + (size_t)j * from.columns + i;
            const Mask taken = open & (input[place] == highest);
            result[place] = only(taken, whole);
            open &= ~taken;
          }
      }
}

// The usual windows are worth loops of their own, unrolled by the compiler.
inline void max_pool(Shape from, Shape to, int size, const Vector* input, Vector* output) {
  size == 2 ? max_pool_windows(from, to, 2, input, output) : max_pool_windows(from, to, size, input, output);
}

inline void max_pool_gradient(Shape from, Shape to, int size, const Vector* input, const Vector* output,
                              const Vector* gradient, Vector* result) {
  size == 2 ? max_pool_gradient_windows(from, to, 2, input, output, gradient, result)
            : max_pool_gradient_windows(from, to, size, input, output, gradient, result);
}

inline void average_pool(Shape from, const Vector* input, Vector* output) {
  for (int c = 0; c < from.channels; c++) {
    Vector sum{};
    for (size_t i = 0; i < from.plane(); i++) sum += input[c * from.pitch() + i];
    output[c] = sum / (float)from.plane();
  }
}

inline void average_pool_gradient(Shape from, const Vector* gradient, Vector* result) {
  for (int c = 0; c < from.channels; c++)
    std::fill_n(result + c * from.pitch(), from.plane(), gradient[c] / (float)from.plane());
}

// The images of a group, each with its affine map; see `kilonet.data.augment` for what a map means.
struct Pictures {
  const uint8_t* pixels[lanes];    // [channel][row][column]; null for a lane without an image
  const float* transforms[lanes];  // 2 x 3
};

// Bytes of scratch that `resample` needs: the pictures with a frame of zeros, and what a load of two bytes reads over.
inline size_t frame_bytes(Shape shape) {
  return (size_t)lanes * shape.channels * (shape.rows + 3) * (shape.columns + 3) + 8;
}

inline void copy_framed(Shape shape, const uint8_t* pixels, uint8_t* frame) {
  const size_t columns = shape.columns + 3;
  std::memset(frame, 0, shape.channels * (shape.rows + 3) * columns);
  if (!pixels) return;
  for (int c = 0; c < shape.channels; c++)
    for (int y = 0; y < shape.rows; y++)
      std::memcpy(frame + ((size_t)c * (shape.rows + 3) + y + 1) * columns + 1,
                  pixels + ((size_t)c * shape.rows + y) * shape.columns, shape.columns);
}

inline Vector clamped(Vector values, float highest) {
  values = values > 0 ? values : Vector{};
  return values < highest ? values : all(highest);
}

// output = scale * (bilinear sample, zero outside) + shift
inline void resample(Shape shape, const Pictures& pictures, float scale, float shift, uint8_t* frames, Vector* output) {
  const size_t columns = shape.columns + 3, frame = (shape.rows + 3) * columns;
  Vector map[6];
  Mask start;
  for (int l = 0; l < lanes; l++) {
    copy_framed(shape, pictures.pixels[l], frames + l * shape.channels * frame);
    start[l] = (int)(l * shape.channels * frame);
    for (int k = 0; k < 6; k++) map[k][l] = pictures.transforms[l][k];
  }
  // The frame's one row and column of zeros make its positions one more than the picture's.
  const float middle_x = 0.5f * (shape.columns - 1), middle_y = 0.5f * (shape.rows - 1);
  for (int y = 0; y < shape.rows; y++)
    for (int x = 0; x < shape.columns; x++) {
      const float from_x = x - middle_x, from_y = y - middle_y;
      const Vector source_x = clamped(map[0] * from_x + map[1] * from_y + map[2] + (middle_x + 1), shape.columns + 1);
      const Vector source_y = clamped(map[3] * from_x + map[4] * from_y + map[5] + (middle_y + 1), shape.rows + 1);
      const Mask left = __builtin_convertvector(source_x, Mask), top = __builtin_convertvector(source_y, Mask);
      const Vector right = source_x - __builtin_convertvector(left, Vector);
      const Vector below = source_y - __builtin_convertvector(top, Vector);
      const Mask place = start + top * (int)columns + left;
      for (int c = 0; c < shape.channels; c++) {
        Words upper, lower;
        for (int l = 0; l < lanes; l++) {
          uint16_t pair[2];
          const uint8_t* at = frames + place[l] + c * frame;
          std::memcpy(pair, at, 2);
          std::memcpy(pair + 1, at + columns, 2);
          upper[l] = pair[0], lower[l] = pair[1];
        }
        // Little-endian: the left pixel is the low byte.
        const auto blend = [&](Words two) {
          const Vector one = __builtin_convertvector((Mask)(two & 255), Vector);
          return one + right * (__builtin_convertvector((Mask)(two >> 8), Vector) - one);
        };
        const Vector above = blend(upper);
        output[c * shape.pitch() + y * shape.columns + x] = (above + below * (blend(lower) - above)) * scale + shift;
      }
    }
}

struct Score {
  double loss = 0;
  int64_t correct = 0;
};

// Softmax cross-entropy of one image, `lanes` floats apart; turns its logits into the gradient of `share` times the loss.
inline double cross_entropy(const float* logits, int classes, int64_t label, float smoothing, float share, float* gradient) {
  double highest = logits[0], total = 0, sum = 0;
  for (int k = 0; k < classes; k++) highest = std::max(highest, (double)logits[k * lanes]);
  for (int k = 0; k < classes; k++) {
    gradient[k * lanes] = std::exp(logits[k * lanes] - (float)highest);
    total += gradient[k * lanes];
    sum += logits[k * lanes];
  }
  const double level = highest + std::log(total), even = smoothing / classes;
  for (int k = 0; k < classes; k++) {
    const double target = even + (k == label ? 1 - smoothing : 0);
    gradient[k * lanes] = (float)((gradient[k * lanes] / total - target) * share);
  }
  return level - (1 - smoothing) * logits[label * lanes] - even * sum;
}

// Softmax of one image's logits over the temperature: calls use(class, probability) for each class.
template <class Use>
inline void softened(const float* logits, int classes, double temperature, Use use) {
  double highest = logits[0], total = 0;
  for (int k = 0; k < classes; k++) highest = std::max(highest, (double)logits[k * lanes]);
  const auto power = [&](int k) { return std::exp((float)((logits[k * lanes] - highest) / temperature)); };
  for (int k = 0; k < classes; k++) total += power(k);
  for (int k = 0; k < classes; k++) use(k, power(k) / total);
}

// What a group is to learn from teachers beside its labels. The gradient of
//   (1 - weight) * cross-entropy + weight * temperature^2 * KL(targets || softmax(logits / temperature))
// by a logit is (1 - weight) * (softmax - label) + weight * temperature * (softmax at the temperature - target).
// Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015.
struct Lesson {
  double temperature, weight;
  const Vector* targets;  // by class, probabilities at the temperature; null without a teacher, when the weight is zero
};

// Scores the `count` images of a group; the gradient of the other lanes is zero. The loss is the cross-entropy alone.
inline Score score(const Vector* logits, int classes, const int64_t* labels, int count, float smoothing, float share,
                   Lesson lesson, Vector* gradient) {
  Score result;
  std::fill_n(gradient, classes, Vector{});
  for (int l = 0; l < count; l++) {
    const float* own = (const float*)logits + l;
    int best = 0;
    for (int k = 1; k < classes; k++)
      if (own[k * lanes] > own[best * lanes]) best = k;
    result.correct += best == labels[l];
    float* slope = (float*)gradient + l;
    result.loss += cross_entropy(own, classes, labels[l], smoothing, (float)(share * (1 - lesson.weight)), slope);
    if (!lesson.targets) continue;
    const double factor = share * lesson.weight * lesson.temperature;
    softened(own, classes, lesson.temperature, [&](int k, double probability) {
      slope[k * lanes] += (float)(factor * (probability - lesson.targets[k][l]));
    });
  }
  return result;
}

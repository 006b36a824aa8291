// Convolution kernels specialised to one layer's shape: forward, gradient of the input, gradient of the weights.
//
// Tensors are [channel][row][column] of vectors with one image a lane. So every load is aligned, and every multiplication
// is a vector times one broadcast weight, for any number of channels and any kernel size. A tile of results stays in
// registers during the whole reduction. With bfloat16 a tensor is first rounded and packed in pairs: pairs of channels for
// a sum over channels, pairs of columns for a sum over positions. One instruction then multiplies and adds both values of
// a pair. Tensors and their gradients are stored in bfloat16 too, which halves the memory traffic: those that only
// convolutions read in pairs of channels, the others in halves.
#pragma once
#include "bfloat16.hpp"
#include "convolution.hpp"

// Whether training convolutions multiply pairs.
#ifdef KILONET_BFLOAT16
constexpr bool bfloat16 = true;
#else
constexpr bool bfloat16 = false;
#endif

// An element of a tensor that is stored so; a pair is as large as a float32 value.
template <Storage stored>
struct ElementOf {
  using Type = Vector;
};

template <>
struct ElementOf<Storage::halves> {
  using Type = Halves;
};

template <Storage stored>
using Element = typename ElementOf<stored>::Type;

// What is multiplied in pairs, forward and for the input's gradient: nothing, channels, or the columns of a depthwise layer.
enum class Pairing { none, channels, columns };

constexpr Pairing pairing_of(Convolution c) {
  if (bfloat16 && c.groups == 1 && c.channels_in > 1 && c.channels_out > 1) return Pairing::channels;
  const bool depthwise = c.groups > 1 && c.group_inputs() == 1 && c.group_outputs() == 1;
  return bfloat16 && depthwise && c.kernel > 1 ? Pairing::columns : Pairing::none;
}

// Vectors of scratch memory that suffice for the spread gradient, and behind it to pack the operands in pairs.
constexpr size_t scratch_vectors(Convolution c) {
  if (!bfloat16) return c.spread_vectors();
  return c.spread_vectors() + c.channels_in * (c.input_pitch() + 13) + c.channels_out * (c.spread_pitch() + 13);
}

// Whether the tensor between two convolutions is stored in pairs, if the first one's batch norm is folded into the
// weights of the second.
constexpr bool stores_pairs(Convolution before, Convolution after) {
  return before.groups == 1 && pairing_of(after) == Pairing::channels;
}

// The sizes of one pass of a convolution, forward or to the input's gradient. Input rows are `stride` vectors apart. There
// are `zero_rows` rows of zeros above and below the input, and `row_spread` - 1 between its rows, which are not stored:
// output row y starts at input row y * step - zero_rows, counting them, and output column x at input column x * step.
struct CorrelationPlan {
  int channels, rows, stride, outputs, rows_out, columns_out, kernel, zero_rows;
  size_t pitch, pitch_out;
  Pairing pairing;
  Storages stored;
  int step, row_spread;
  int padding_out = 0;  // rows and columns of zeros around each plane of the output, as it is stored
  constexpr int input_planes() const { return pairing == Pairing::channels ? pair_count(channels) : channels; }
  // Vectors from one row of what is multiplied to the next. Columns are packed in pairs at every second one.
  constexpr int packed_stride() const { return pairing == Pairing::columns ? pair_count(stride) : stride; }
  // The last row of the input that a row of the output needs.
  constexpr int last_row(int y) const { return least((y * step + kernel - 1 - zero_rows) / row_spread, rows - 1); }
  constexpr bool pairs_outputs() const { return stored.output == Storage::pairs; }
};

struct Tile {
  int channels, columns;
};

// Estimates the cost of one step of the reduction for a tile: the largest of its multiplications, its loads, and the
// latency of a chain of additions.
constexpr int tile_cost(int channels, int columns) {
  return channels && columns ? greatest(greatest(4 * channels * columns, 4 * (channels + columns)), 32) + channels + columns : 0;
}

// Returns the tile that covers outputs x columns at the lowest cost without spilling registers. If `even`, it has an even
// number of channels.
constexpr Tile best_tile(int outputs, int columns, bool even) {
  Tile best{1, 1};
  long lowest = -1;
  const int step = even ? 2 : 1;
  for (int c = step; c <= least(outputs, 10); c += step)
    for (int x = 1; x <= least(columns, 10); x++) {
      if (c * x + x + 1 > registers) continue;
      long cost = (long)(outputs / c) * (columns / x) * tile_cost(c, x) + (outputs / c) * tile_cost(c, columns % x) +
                  (columns / x) * tile_cost(outputs % c, x) + tile_cost(outputs % c, columns % x);
      if (lowest < 0 || cost < lowest) lowest = cost, best = {c, x};
    }
  return best;
}

// Returns the tile of a plan. With pairs of columns it begins at an even one; the pairs and taps need registers too.
constexpr Tile tile_of(CorrelationPlan plan) {
  if (plan.pairing != Pairing::columns) return best_tile(plan.outputs, plan.columns_out, plan.pairs_outputs());
  constexpr int most = registers / 2 - 2;
  const int tiles = (plan.columns_out + most - 1) / most, columns = (plan.columns_out + tiles - 1) / tiles;
  return {1, tiles > 1 ? columns + columns % 2 : columns};
}

// The pairs of taps of a depthwise kernel's rows, by which outputs at even columns and those at odd ones multiply the same
// pairs of columns. A tap without another one is paired with zero.
template <int kernel>
struct TapPairs {
  static constexpr int row_pairs[2] = {pair_count(kernel), kernel / 2 + 1};
  float taps[kernel][2][kernel / 2 + 1];
  explicit TapPairs(const float* even) {
    for (int y = 0; y < kernel; y++, even += row_pairs[0]) {
      uint32_t before = 0;
      for (int t = 0; t < row_pairs[1]; t++) {
        uint32_t own = 0;
        if (t < row_pairs[0]) std::memcpy(&own, even + t, sizeof own);
        const uint32_t odd = before >> 16 | own << 16;
        std::memcpy(&taps[y][0][t], &own, sizeof own);
        std::memcpy(&taps[y][1][t], &odd, sizeof odd);
        before = own;
      }
    }
  }
};

// Returns the weights of a group as `correlate` takes them.
template <CorrelationPlan P>
inline auto multiplied(const float* weights) {
  if constexpr (P.pairing == Pairing::columns) {
    return TapPairs<P.kernel>(weights);
  } else {
    return weights;
  }
}

// Prefetches what a tile will write, or read at the end, while the tile is computed.
template <int columns, bool stores, class Element>
inline void prefetch_elements(const Element* place) {
  for (int j = 0; j < columns; j += sizeof(Vector) / sizeof(Element)) __builtin_prefetch(place + j, stores);
}

// Weights are [input][kernel row][kernel column][output], or `TapPairs`.
template <CorrelationPlan P, int channels, int columns, class Weights, class Store>
inline void correlate_tile(const Vector* input, const Weights& weights, int channel, int y, int x, Store& store) {
  constexpr int step = P.pairs_outputs() ? 2 : 1;
  for (int c = 0; c < channels; c += step) store.template prefetch<columns>((channel + c) / step, y, x);
  Vector sums[channels][columns] = {};
  int first = P.zero_rows ? greatest(0, P.zero_rows - y) : 0, last = P.kernel;
  if constexpr (P.row_spread > 1) {
    first += (P.row_spread - (y + first - P.zero_rows) % P.row_spread) % P.row_spread;
    last = least(P.kernel, (P.rows - 1) * P.row_spread + 1 + P.zero_rows - y);
  } else if (P.zero_rows) {
    last = least(P.kernel, P.rows + P.zero_rows - y);
  }
  for (int i = 0; i < P.input_planes(); i++)
    for (int ky = first; ky < last; ky += P.row_spread) {
      const size_t input_row = (y * P.step + ky - P.zero_rows) / P.row_spread;
      const Vector* row = input + i * P.pitch + input_row * P.packed_stride();
      if constexpr (P.pairing == Pairing::columns) {
        row += x * P.step / 2;
        const auto& taps = weights.taps[ky];
#pragma GCC unroll 3
        for (int t = 0; t <= P.kernel / 2; t++)
#pragma GCC unroll 16
          for (int j = 0; j < columns; j++)
            if (t < weights.row_pairs[j * P.step % 2])
              sums[0][j] = add_products(sums[0][j], taps[j * P.step % 2][t], row[t + j * P.step / 2]);
      } else {
        row += x * P.step;
        const float* taps = weights + (size_t)(i * P.kernel + ky) * P.kernel * P.outputs + channel;
#pragma GCC unroll 3
        for (int t = 0; t < P.kernel; t++)
#pragma GCC unroll 16
          for (int c = 0; c < channels; c++)
#pragma GCC unroll 16
            for (int j = 0; j < columns; j++)
              sums[c][j] = multiply_add<P.pairing != Pairing::none>(sums[c][j], taps[t * P.outputs + c], row[t + j * P.step]);
      }
    }
#pragma GCC unroll 16
  for (int c = 0; c < channels; c += step) {
    if constexpr (P.pairs_outputs()) {
      store.template store_pair<columns>(channel + c, y, x, sums[c], c + 1 < channels ? sums[c + 1] : nullptr);
    } else {
      store.template store_row<columns>(channel + c, y, x, sums[c]);
    }
  }
}

template <CorrelationPlan P, int columns, class Weights, class Store>
inline void correlate_columns(const Vector* input, const Weights& weights, int y, int x, Store& store) {
  constexpr int channels = tile_of(P).channels, rest = P.outputs % channels;
  if constexpr (P.pairing != Pairing::columns) {
    // The vectors that only the next columns read.
    const Vector* ahead = input + (size_t)P.last_row(y) * P.stride + (x + columns - 1) * P.step + P.kernel;
    for (int i = 0; i < P.input_planes(); i++)
      for (int j = 0; j < columns * P.step; j++) __builtin_prefetch(ahead + i * P.pitch + j);
  }
  for (int c = 0; c + channels <= P.outputs; c += channels)
    correlate_tile<P, channels, columns>(input, weights, c, y, x, store);
  if constexpr (rest > 0) correlate_tile<P, rest, columns>(input, weights, P.outputs - rest, y, x, store);
}

template <class Element>
inline void copy_elements(size_t count, const Element* from, Element* to) {
  std::memcpy(to, from, count * sizeof(Element));
}

inline void copy_elements(size_t count, const Halves* from, Vector* to) {
  for (size_t i = 0; i < count; i++) to[i] = loaded(from + i);
}

// Packs the rows of the input from `begin` to `end` as they are multiplied: in pairs, or as float32 values.
template <CorrelationPlan P, class Given>
inline void pack_input_rows(const Given* given, int begin, int end, Vector* packed) {
  const size_t count = (size_t)(end - begin) * P.stride;
  given += (size_t)begin * P.stride, packed += (size_t)begin * P.packed_stride();
  if constexpr (P.pairing == Pairing::channels) {
    pair_channels(P.channels, P.pitch, count, given, packed);
  } else if constexpr (P.pairing == Pairing::columns) {
    pair_columns<2, 1, Given>(P.channels, end - begin, P.stride, {given, P.pitch, P.stride},
                              {packed, P.pitch, P.packed_stride()});
  } else {
    for (int c = 0; c < P.channels; c++) copy_elements(count, given + c * P.pitch, packed + c * P.pitch);
  }
}

// The input is float32 values, pairs or halves.
template <CorrelationPlan P, class Given, class Weights, class Store>
inline void correlate(const Given* given, const Weights& weights, Vector* scratch, Store store) {
  constexpr bool packs = P.pairing == Pairing::none ? sizeof(Given) < sizeof(Vector) : P.stored.input != Storage::pairs;
  const Vector* input = scratch;
  if constexpr (!packs) input = given;
  constexpr int columns = tile_of(P).columns, rest = P.columns_out % columns;
  for (int y = 0, packed = 0; y < P.rows_out; y++) {
    // A row is packed just before it is read, so that it is in the cache.
    if constexpr (packs) {
      const int end = P.last_row(y) + 1;
      if (packed < end) pack_input_rows<P>(given, packed, end, scratch);
      packed = greatest(packed, end);
    }
    for (int x = 0; x + columns <= P.columns_out; x += columns)
      correlate_columns<P, columns>(input, weights, y, x, store);
    if constexpr (rest > 0) correlate_columns<P, rest>(input, weights, y, P.columns_out - rest, store);
  }
}

template <CorrelationPlan P>
struct StoreLinear {
  ForwardArguments arguments;
  int channel;
  Element<P.stored.output>* result_at(int c, int y, int x) const {
    constexpr int width = P.columns_out + 2 * P.padding_out;
    const size_t place = (channel + c) * P.pitch_out + (y + P.padding_out) * width + P.padding_out + x;
    return (Element<P.stored.output>*)arguments.output + place;
  }
  template <int columns>
  void prefetch(int c, int y, int x) const {
    prefetch_elements<columns, true>(result_at(c, y, x));
  }
  template <int columns>
  void store_row(int c, int y, int x, const Vector* values) {
    auto* output = result_at(c, y, x);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) put(output + j, values[j] + arguments.bias[channel + c]);
  }
};

template <CorrelationPlan P>
struct StoreRelu {
  ForwardArguments arguments;
  int channel;
  Element<P.stored.output>* result_at(int plane, int y, int x) const {
    return (Element<P.stored.output>*)arguments.output + plane * P.pitch_out + y * P.columns_out + x;
  }
  template <int columns>
  void prefetch(int c, int y, int x) const {
    prefetch_elements<columns, true>(result_at(P.pairs_outputs() ? c : channel + c, y, x));
  }
  template <int columns, class Result>
  void add_bias_and_relu(int c, const Vector* values, Result* results) {
    Vector sum{}, square{};
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) {
      // Lanes without an image are zero, which also makes their gradients zero.
      const Vector result = masked(arguments.valid_lanes, relu(values[j] + arguments.bias[c]));
      put(results + j, result);
      // Lanes without an image are left out when the lanes are summed.
      const Vector distance = result - arguments.centre[c];
      sum += distance;
      square += distance * distance;
    }
    arguments.sums[2 * c] += sum;
    arguments.sums[2 * c + 1] += square;
  }
  template <int columns>
  void store_row(int c, int y, int x, const Vector* values) {
    add_bias_and_relu<columns>(channel + c, values, result_at(channel + c, y, x));
  }
  template <int columns>
  void store_pair(int c, int y, int x, const Vector* first, const Vector* second) {
    Vector results[2][columns] = {};
    add_bias_and_relu<columns>(c, first, results[0]);
    if (second) add_bias_and_relu<columns>(c + 1, second, results[1]);
    auto* output = result_at(c / 2, y, x);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = pack_pair(results[0][j], results[1][j]);
  }
};

template <CorrelationPlan P>
struct StoreGradient {
  InputGradientArguments arguments;
  int channel;
  Element<P.stored.output>* result_at(int c, int y, int x) const {
    return (Element<P.stored.output>*)arguments.result + (channel + c) * P.pitch_out + y * P.columns_out + x;
  }
  template <int columns>
  void prefetch(int c, int y, int x) const {
    prefetch_elements<columns, true>(result_at(c, y, x));
  }
  template <int columns>
  void store_row(int c, int y, int x, const Vector* values) {
    auto* output = result_at(c, y, x);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) put(output + j, values[j]);
  }
};

template <CorrelationPlan P>
struct StoreSum {
  InputGradientArguments arguments;
  int channel;
  const Element<P.stored.output>* added_at(int c, int y, int x) const {
    const size_t place = (channel - arguments.added_from + c) * P.pitch_out + y * P.columns_out + x;
    return (const Element<P.stored.output>*)arguments.added + place;
  }
  Element<P.stored.output>* result_at(int c, int y, int x) const {
    return (Element<P.stored.output>*)arguments.result + (channel + c) * P.pitch_out + y * P.columns_out + x;
  }
  template <int columns>
  void prefetch(int c, int y, int x) const {
    prefetch_elements<columns, false>(added_at(c, y, x));
    prefetch_elements<columns, true>(result_at(c, y, x));
  }
  template <int columns>
  void store_row(int c, int y, int x, const Vector* values) {
    const auto* added = added_at(c, y, x);
    auto* output = result_at(c, y, x);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) put(output + j, loaded(added + j) + values[j]);
  }
};

template <CorrelationPlan P>
struct StoreNormGradient {
  InputGradientArguments arguments;
  int channel;
  const Element<P.stored.output>* input_at(int plane, int y, int x) const {
    return (const Element<P.stored.output>*)arguments.values + plane * P.pitch_out + y * P.columns_out + x;
  }
  Element<P.stored.output>* result_at(int plane, int y, int x) const {
    const size_t row = y * (P.columns_out + 2 * arguments.border) + arguments.border;
    return (Element<P.stored.output>*)arguments.result + plane * arguments.pitch + row + x;
  }
  template <int columns>
  void prefetch(int c, int y, int x) const {
    const int plane = P.pairs_outputs() ? c : channel + c;
    prefetch_elements<columns, false>(input_at(plane, y, x));
    prefetch_elements<columns, true>(result_at(plane, y, x));
  }
  template <int columns, class Value>
  void backward_relu(int c, const Vector* gradient, const Value* values, Value* results) {
    const NormGradient norm = arguments.norm;
    const float gradient_scale = norm.gradient_scale[c], value_scale = norm.value_scale[c], offset = norm.offset[c];
    Vector total{};
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) {
      const Vector value = loaded(values + j);
      const Vector result = masked(value > 0, gradient_scale * gradient[j] + (value_scale * value + offset));
      put(results + j, result);
      total += result;
    }
    arguments.channel_sums[c] += total;
  }
  template <int columns>
  void store_row(int c, int y, int x, const Vector* gradient) {
    backward_relu<columns>(channel + c, gradient, input_at(channel + c, y, x), result_at(channel + c, y, x));
  }
  template <int columns>
  void store_pair(int c, int y, int x, const Vector* first, const Vector* second) {
    const auto* values = input_at(c / 2, y, x);
    auto* output = result_at(c / 2, y, x);
    Vector apart[2][columns], results[2][columns] = {};
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) apart[0][j] = first_values(values[j]), apart[1][j] = second_values(values[j]);
    backward_relu<columns>(c, first, apart[0], results[0]);
    if (second) backward_relu<columns>(c + 1, second, apart[1], results[1]);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = pack_pair(results[0][j], results[1][j]);
  }
};

// Returns a group's input with its padding, as elements of type `To`.
template <Convolution C, class To, class From>
inline const To* padded_input(const From* input, To* padded) {
  constexpr bool stored = C.padding == 0 || C.stored_padded;
  if constexpr (stored && sizeof(From) == sizeof(To)) return input;
  constexpr int padding = stored ? 0 : C.padding, rows = C.padded_rows() - 2 * padding;
  constexpr size_t width = C.padded_columns(), columns = width - 2 * padding, pitch = pitch_of(rows * columns);
  for (int i = 0; i < C.group_inputs(); i++, input += pitch) {
    // The zeros behind a row and before the next one lie together.
    To* row = padded + i * C.input_pitch();
    for (size_t k = 0; k < padding * (width + 1); k++) *row++ = To{};
    for (int y = 0; y < rows; y++, row += columns) {
      if (y)
        for (int k = 0; k < 2 * padding; k++) *row++ = To{};
      copy_elements(columns, input + y * columns, row);
    }
    for (size_t k = 0; k < padding * (width + 1); k++) *row++ = To{};
  }
  return padded;
}

template <Convolution C, Pairing pairing, Storages S, template <CorrelationPlan> class Store>
void forward(const ForwardArguments& pass) {
  constexpr CorrelationPlan P{C.group_inputs(), C.padded_rows(), C.padded_columns(), C.group_outputs(), C.rows_out(),
                              C.columns_out(), C.kernel, 0, C.input_pitch(), C.output_pitch(), pairing, S, C.stride, 1,
                              C.output_padding};
  using Given = Element<S.input>;
  // Halves that are not multiplied in pairs become float32 values.
  using Padded = Element<pairing == Pairing::none ? Storage::float32 : S.input>;
  for (int g = 0; g < C.groups; g++)
    correlate<P>(padded_input<C>((const Given*)pass.input + g * C.group_input_vectors(), (Padded*)pass.padded),
                 multiplied<P>(pass.weights + g * (C.weight_count() / C.groups)), pass.scratch,
                 Store<P>{pass, g * P.outputs});
}

// Spreads the columns of a gradient by the stride, with zeros between them and on both sides, where the input's gradient is
// a convolution with stride 1. Its rows stay together: a `CorrelationPlan` skips those that would be zero.
template <Convolution C, class Element>
void spread_gradient(int planes, const Element* gradient, Element* spread) {
  for (size_t i = 0; i < planes * C.spread_pitch(); i++) spread[i] = Element{};
  for (int c = 0; c < planes; c++)
    for (int y = 0; y < C.rows_out(); y++) {
      const Element* from = gradient + c * C.gradient_pitch() + (size_t)y * C.columns_out();
      Element* to = spread + c * C.spread_pitch() + (size_t)y * C.spread_columns() + C.spread_border();
      for (int x = 0; x < C.columns_out(); x++) to[x * C.stride] = from[x];
    }
}

template <Convolution C, Storages S, template <CorrelationPlan> class Store>
void input_gradient(const InputGradientArguments& pass, int begin, int end) {
  constexpr CorrelationPlan P{C.group_outputs(), C.rows_out(), C.spread_columns(), C.group_inputs(), C.rows, C.columns,
                              C.kernel, C.spread_border(), C.spread_pitch(), pitch_of((size_t)C.rows * C.columns),
                              pairing_of(C), {S.output, S.input}, 1, C.stride};
  for (int g = begin; g < end; g++) {
    using Given = Element<S.output>;
    const Given* gradient = (const Given*)pass.gradient + (g - begin) * P.channels * C.gradient_pitch();
    if constexpr (C.stride > 1) {
      spread_gradient<C>(S.output == Storage::pairs ? pair_count(P.channels) : P.channels, gradient, (Given*)pass.scratch);
      gradient = (const Given*)pass.scratch;
    }
    correlate<P>(gradient, multiplied<P>(pass.weights + g * (C.weight_count() / C.groups)),
                 pass.scratch + C.spread_vectors(), Store<P>{pass, g * P.outputs});
  }
}

// How the weight gradient is divided into tiles of outputs x taps: all taps of an input for a small kernel, rows of taps for a
// larger depthwise one, several inputs for a 1x1 kernel, part of a row of taps for any other. The image is divided into bands
// of rows, so that what a tile reads stays in the level-1 cache for the next tiles. With bfloat16 a band is first packed in
// pairs of columns, at every second one; the input at every column if pairs cannot be joined, because a tap may start at any.
// The columns of a pair of inputs are as far apart as the windows of neighbouring outputs.
template <Convolution C>
struct WeightGradientTiles {
  static constexpr bool pointwise = C.kernel == 1, single = C.group_outputs() == 1;
  static constexpr bool small = !pointwise && (C.kernel <= 3 || single);
  static constexpr int run_length = pointwise ? C.group_inputs() : small ? C.taps() : C.kernel;
  // How many rows of taps a tile has of a small kernel: the compiler keeps their values in registers from column to column.
  static constexpr int tap_rows = C.kernel <= 3 ? C.kernel : greatest(1, (registers - 4) / (2 * C.kernel));
  static constexpr int taps = small ? least(run_length, tap_rows * C.kernel) : least(run_length, registers == 32 ? 6 : 3);
  static constexpr int outputs = greatest(1, least(C.group_outputs(), (registers - 4) / (taps + 1)));
  // Whether the input is packed at every second column only, and a pair that begins at an odd one is joined of two. The last
  // one of a row would lie beyond it with an even kernel.
  static constexpr bool joins = bfloat16 && C.stride == 1 && C.kernel % 2 == 1;
  static constexpr int input_columns = joins ? pair_count(C.padded_columns()) : C.padded_columns();
  static constexpr int column_step = joins || !bfloat16 ? C.stride : 2 * C.stride;
  static constexpr int row_steps = bfloat16 ? pair_count(C.columns_out()) : C.columns_out();
  static constexpr int gradient_columns = bfloat16 ? row_steps : C.gradient_columns();
  static constexpr int row_bytes =
      (outputs * gradient_columns + (pointwise ? taps : 1) * C.stride * input_columns) * (int)sizeof(Vector);
  static constexpr int rows = least(C.rows_out(), greatest(1, l1_cache_bytes / row_bytes));
  static constexpr int input_rows = (rows - 1) * C.stride + C.kernel;
  static constexpr size_t input_pitch = bfloat16 ? pitch_of((size_t)input_rows * input_columns) : C.input_pitch();
  static constexpr size_t gradient_pitch = bfloat16 ? pitch_of((size_t)rows * row_steps) : C.gradient_pitch();
  static constexpr size_t offset(int tap) {
    if (pointwise) return tap * input_pitch;
    return (small ? tap / C.kernel * input_columns : 0) + tap % C.kernel / (joins ? 2 : 1);
  }
  static constexpr bool is_joined(int tap) { return joins && tap % C.kernel % 2 == 1; }
};

// Adds a band's products to sums[output][tap]: `outputs` channels `pitch` vectors apart, `taps` taps one vector apart, of
// which the input of the first is at `offset(first)`.
template <Convolution C, int outputs, int taps, int first = 0>
inline void weight_gradient_tile(const Vector* input, const Vector* gradient, int rows, Vector* sums) {
  using T = WeightGradientTiles<C>;
  constexpr size_t pitch = (size_t)C.group_inputs() * C.taps();
  Vector tile[outputs][taps];
#pragma GCC unroll 32
  for (int c = 0; c < outputs; c++)
#pragma GCC unroll 32
    for (int t = 0; t < taps; t++) tile[c][t] = sums[c * pitch + t];
  for (int y = 0; y < rows; y++) {
    const Vector* row = input + (size_t)y * C.stride * T::input_columns;
    const Vector* gradient_row = gradient + (size_t)y * T::gradient_columns;
    for (int x = 0; x < T::row_steps; x++) {
      Vector gradients[outputs];
#pragma GCC unroll 32
      for (int c = 0; c < outputs; c++) gradients[c] = gradient_row[c * T::gradient_pitch + x];
#pragma GCC unroll 32
      for (int t = 0; t < taps; t++) {
        const Vector* place = row + T::offset(first + t) + T::column_step * x;
        const Vector value = T::is_joined(first + t) ? joined(place[0], place[1]) : place[0];
#pragma GCC unroll 32
        for (int c = 0; c < outputs; c++) tile[c][t] = multiply_add<bfloat16>(tile[c][t], gradients[c], value);
      }
    }
  }
#pragma GCC unroll 32
  for (int c = 0; c < outputs; c++)
#pragma GCC unroll 32
    for (int t = 0; t < taps; t++) sums[c * pitch + t] = tile[c][t];
}

// The taps of an input from `first` on, when they lie in a rectangle.
template <Convolution C, int outputs, int first>
inline void weight_gradient_parts(const Vector* input, const Vector* gradient, int rows, Vector* sums) {
  using T = WeightGradientTiles<C>;
  constexpr int taps = least(T::taps, T::run_length - first);
  weight_gradient_tile<C, outputs, taps, first>(input, gradient, rows, sums + first);
  if constexpr (first + taps < T::run_length)
    weight_gradient_parts<C, outputs, first + taps>(input, gradient, rows, sums);
}

template <Convolution C, int outputs>
inline void weight_gradient_run(const Vector* input, const Vector* gradient, int rows, Vector* sums) {
  using T = WeightGradientTiles<C>;
  constexpr int rest = T::run_length % T::taps;
  if constexpr (!T::pointwise) return weight_gradient_parts<C, outputs, 0>(input, gradient, rows, sums);
  for (int t = 0; t + T::taps <= T::run_length; t += T::taps)
    weight_gradient_tile<C, outputs, T::taps>(input + T::offset(t), gradient, rows, sums + t);
  if constexpr (rest > 0)
    weight_gradient_tile<C, outputs, rest>(input + T::offset(T::run_length - rest), gradient, rows,
                                           sums + T::run_length - rest);
}

template <Convolution C>
inline void weight_gradient_band(const Vector* input, const Vector* gradient, int rows, Vector* sums) {
  using T = WeightGradientTiles<C>;
  constexpr size_t pitch = (size_t)C.group_inputs() * C.taps();
  constexpr int rows_of_taps = T::pointwise || T::small ? 1 : C.kernel;
  constexpr int runs = T::pointwise ? 1 : C.group_inputs() * rows_of_taps;
  constexpr int rest = C.group_outputs() % T::outputs;
  for (int c = 0; c < C.group_outputs(); c += T::outputs)
    for (int r = 0; r < runs; r++) {
      const Vector* run_input = input + r / rows_of_taps * T::input_pitch + (size_t)(r % rows_of_taps) * T::input_columns;
      const Vector* run_gradient = gradient + c * T::gradient_pitch;
      Vector* run_sums = sums + c * pitch + (size_t)r * T::run_length;
      if (c + T::outputs <= C.group_outputs()) {
        weight_gradient_run<C, T::outputs>(run_input, run_gradient, rows, run_sums);
      } else if constexpr (rest > 0) {
        weight_gradient_run<C, rest>(run_input, run_gradient, rows, run_sums);
      }
    }
}

// Pairs the columns of a tensor as it is stored; see `pair_columns`.
template <int step, int distance, Storage stored>
inline void pair_stored_columns(int channels, int rows, int columns, Planes<const Element<stored>> from, Planes<Vector> to) {
  if constexpr (stored == Storage::pairs) {
    pair_columns_of_pairs<step, distance>(channels, rows, columns, from, to);
  } else {
    pair_columns<step, distance>(channels, rows, columns, from, to);
  }
}

// Adds to sums[output channel][input][kernel row][kernel column].
template <Convolution C, Storages S>
void weight_gradient(const WeightGradientArguments& pass, int begin, int end) {
  using T = WeightGradientTiles<C>;
  for (int g = begin; g < end; g++) {
    using Input = Element<S.input>;
    using Gradient = Element<S.output>;
    const Input* input = padded_input<C>((const Input*)pass.input + g * C.group_input_vectors(), (Input*)pass.padded);
    const Gradient* gradient = (const Gradient*)pass.gradient + (size_t)(g - begin) * C.group_outputs() * C.gradient_pitch();
    for (int y = 0; y < C.rows_out(); y += T::rows) {
      const int rows = least(T::rows, C.rows_out() - y);
      const Input* band = input + (size_t)y * C.stride * C.padded_columns();
      const Gradient* band_gradient = gradient + (size_t)y * C.gradient_columns() + C.border();
      Vector* sums = pass.sums + (size_t)g * (C.weight_count() / C.groups);
      if constexpr (bfloat16) {
        Vector *scratch = pass.scratch, *gradient_pairs = scratch + C.group_inputs() * T::input_pitch;
        pair_stored_columns<T::joins ? 2 : 1, C.stride, S.input>(
            C.group_inputs(), (rows - 1) * C.stride + C.kernel, C.padded_columns(),
            {band, C.input_pitch(), C.padded_columns()}, {scratch, T::input_pitch, T::input_columns});
        pair_stored_columns<2, 1, S.output>(C.group_outputs(), rows, C.columns_out(),
                                            {band_gradient, C.gradient_pitch(), C.gradient_columns()},
                                            {gradient_pairs, T::gradient_pitch, T::gradient_columns});
        weight_gradient_band<C>(scratch, gradient_pairs, rows, sums);
      } else {
        weight_gradient_band<C>(band, band_gradient, rows, sums);
      }
    }
  }
}

// Packs the taps of each row of a depthwise kernel in pairs, in place.
template <Convolution C>
void pair_taps(int, size_t, float* weights) {
  for (int g = 0; g < C.groups; g++)
    for (int y = 0; y < C.kernel; y++)
      for (int x = 0; x < C.kernel; x += 2) {
        const float* taps = weights + g * C.taps() + y * C.kernel + x;
        const float second = x + 1 < C.kernel ? taps[1] : 0;
        weights[g * C.taps() + y * pair_count(C.kernel) + x / 2] = pack_pair(broadcast(taps[0]), broadcast(second))[0];
      }
}

// Returns the function that packs a convolution's weights in pairs, or null.
template <Convolution C>
constexpr auto pair_weights() -> void (*)(int, size_t, float*) {
  if (pairing_of(C) == Pairing::channels) return pair_rows;
  return pairing_of(C) == Pairing::columns ? pair_taps<C> : nullptr;
}

// `StoreOutput` says what is done with the output, `StoreInputGradient` what is done with the input's gradient.
template <Convolution C, Storages S, template <CorrelationPlan> class StoreOutput,
          template <CorrelationPlan> class StoreInputGradient>
constexpr Kernels kernels() {
  return {C,
          scratch_vectors(C),
          pair_weights<C>(),
          forward<C, pairing_of(C), S, StoreOutput>,
          forward<C, Pairing::none, Storages{}, StoreOutput>,
          input_gradient<C, S, StoreInputGradient>,
          weight_gradient<C, S>};
}

// The kernels of a convolution whose input needs no gradient.
template <Convolution C, Storages S, template <CorrelationPlan> class StoreOutput>
constexpr Kernels kernels() {
  return {C,
          scratch_vectors(C),
          pair_weights<C>(),
          forward<C, pairing_of(C), S, StoreOutput>,
          forward<C, Pairing::none, Storages{}, StoreOutput>,
          nullptr,
          weight_gradient<C, S>};
}

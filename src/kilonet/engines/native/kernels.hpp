// Convolution kernels specialised to one layer's shape: forward, gradient of the input, gradient of the weights.
//
// Tensors are [channel][row][column] of vectors with one image a lane. So every load is aligned, and every multiplication
// is a vector times one broadcast weight, for any number of channels and any kernel size. A tile of results stays in
// registers during the whole reduction. With bfloat16 a tensor is first rounded and packed in pairs: pairs of channels for
// a sum over channels, pairs of columns for a sum over positions. One instruction then multiplies and adds both values of
// a pair. A tensor that only convolutions read is stored in pairs of channels, and so is its gradient, which halves the
// memory traffic.
#pragma once
#include "bfloat16.hpp"
#include "convolution.hpp"

// Whether sums over channels multiply pairs.
constexpr bool paired(Convolution c) { return bfloat16 && c.groups == 1 && c.channels_in > 1 && c.channels_out > 1; }

// Vectors of scratch memory that suffice for the spread gradient, and behind it to pack the operands in pairs.
constexpr size_t scratch_vectors(Convolution c) {
  if (!bfloat16) return c.spread_vectors();
  return c.spread_vectors() + c.channels_in * (c.input_pitch() + 13) + c.channels_out * (c.spread_pitch() + 13);
}

// Whether the tensor between two convolutions is stored in pairs, if the first one's batch norm is folded into the
// weights of the second.
constexpr bool stores_pairs(Convolution before, Convolution after) { return before.groups == 1 && paired(after); }

// Whether a convolution's input and output, and their gradients, are stored in pairs of channels.
struct PairStorage {
  bool input, output;
};

// The sizes of one pass of a convolution, forward or to the input's gradient. Input rows are `stride` vectors apart. There
// are `zero_rows` rows of zeros above and below the input, and `row_spread` - 1 between its rows, which are not stored:
// output row y starts at input row y * step - zero_rows, counting them, and output column x at input column x * step.
struct CorrelationPlan {
  int channels, rows, stride, outputs, rows_out, columns_out, kernel, zero_rows;
  size_t pitch, pitch_out;
  bool paired;         // whether it multiplies pairs
  PairStorage stored;  // which tensors are stored in pairs
  int step, row_spread;
  int padding_out = 0;  // rows and columns of zeros around each plane of the output, as it is stored
  constexpr int input_planes() const { return paired ? pair_count(channels) : channels; }
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

// Prefetches what a tile will write, or read at the end, while the tile is computed.
template <int columns, bool stores>
inline void prefetch_vectors(const Vector* place) {
  for (int j = 0; j < columns; j++) __builtin_prefetch(place + j, stores);
}

// Weights are [input][kernel row][kernel column][output].
template <CorrelationPlan P, int channels, int columns, class Store>
inline void correlate_tile(const Vector* input, const float* weights, int channel, int y, int x, Store& store) {
  constexpr int step = P.stored.output ? 2 : 1;
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
      const Vector* row = input + i * P.pitch + input_row * P.stride + x * P.step;
      const float* taps = weights + (size_t)(i * P.kernel + ky) * P.kernel * P.outputs + channel;
#pragma GCC unroll 3
      for (int kx = 0; kx < P.kernel; kx++)
#pragma GCC unroll 16
        for (int c = 0; c < channels; c++)
#pragma GCC unroll 16
          for (int j = 0; j < columns; j++)
            sums[c][j] = multiply_add<P.paired>(sums[c][j], taps[kx * P.outputs + c], row[kx + j * P.step]);
    }
#pragma GCC unroll 16
  for (int c = 0; c < channels; c += step) {
    if constexpr (P.stored.output) {
      store.template store_pair<columns>(channel + c, y, x, sums[c], c + 1 < channels ? sums[c + 1] : nullptr);
    } else {
      store.template store_row<columns>(channel + c, y, x, sums[c]);
    }
  }
}

template <CorrelationPlan P, int columns, class Store>
inline void correlate_columns(const Vector* input, const float* weights, int y, int x, Store& store) {
  constexpr int channels = best_tile(P.outputs, P.columns_out, P.stored.output).channels, rest = P.outputs % channels;
  // The vectors that only the next columns read.
  const int last_row = least((y * P.step + P.kernel - 1 - P.zero_rows) / P.row_spread, P.rows - 1);
  const Vector* ahead = input + (size_t)last_row * P.stride + (x + columns - 1) * P.step + P.kernel;
  for (int i = 0; i < P.input_planes(); i++)
    for (int j = 0; j < columns * P.step; j++) __builtin_prefetch(ahead + i * P.pitch + j);
  for (int c = 0; c + channels <= P.outputs; c += channels)
    correlate_tile<P, channels, columns>(input, weights, c, y, x, store);
  if constexpr (rest > 0) correlate_tile<P, rest, columns>(input, weights, P.outputs - rest, y, x, store);
}

template <CorrelationPlan P, class Store>
inline void correlate(const Vector* input, const float* weights, Vector* scratch, Store store) {
  if constexpr (P.paired && !P.stored.input) {
    pair_channels(P.channels, P.pitch, (size_t)P.rows * P.stride, input, scratch);
    input = scratch;
  }
  constexpr int columns = best_tile(P.outputs, P.columns_out, P.stored.output).columns, rest = P.columns_out % columns;
  for (int y = 0; y < P.rows_out; y++) {
    for (int x = 0; x + columns <= P.columns_out; x += columns)
      correlate_columns<P, columns>(input, weights, y, x, store);
    if constexpr (rest > 0) correlate_columns<P, rest>(input, weights, y, P.columns_out - rest, store);
  }
}

template <CorrelationPlan P>
struct StoreLinear {
  ForwardArguments arguments;
  int channel;
  Vector* result_at(int c, int y, int x) const {
    constexpr int width = P.columns_out + 2 * P.padding_out;
    return arguments.output + (channel + c) * P.pitch_out + (y + P.padding_out) * width + P.padding_out + x;
  }
  template <int columns>
  void prefetch(int c, int y, int x) const {
    prefetch_vectors<columns, true>(result_at(c, y, x));
  }
  template <int columns>
  void store_row(int c, int y, int x, const Vector* values) {
    Vector* output = result_at(c, y, x);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = values[j] + arguments.bias[channel + c];
  }
};

template <CorrelationPlan P>
struct StoreRelu {
  ForwardArguments arguments;
  int channel;
  Vector* result_at(int plane, int y, int x) const { return arguments.output + plane * P.pitch_out + y * P.columns_out + x; }
  template <int columns>
  void prefetch(int c, int y, int x) const {
    prefetch_vectors<columns, true>(result_at(P.stored.output ? c : channel + c, y, x));
  }
  template <int columns>
  void add_bias_and_relu(int c, const Vector* values, Vector* results) {
    Vector sum{}, square{};
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) {
      // Lanes without an image are zero, which also makes their gradients zero.
      results[j] = masked(arguments.valid_lanes, relu(values[j] + arguments.bias[c]));
      const Vector distance = masked(arguments.valid_lanes, results[j] - arguments.centre[c]);
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
    Vector* output = result_at(c / 2, y, x);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = pack_pair(results[0][j], results[1][j]);
  }
};

template <CorrelationPlan P>
struct StoreGradient {
  InputGradientArguments arguments;
  int channel;
  template <int columns>
  void prefetch(int c, int y, int x) const {
    prefetch_vectors<columns, true>(arguments.result + (channel + c) * P.pitch_out + y * P.columns_out + x);
  }
  template <int columns>
  void store_row(int c, int y, int x, const Vector* values) {
    Vector* output = arguments.result + (channel + c) * P.pitch_out + y * P.columns_out + x;
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = values[j];
  }
};

template <CorrelationPlan P>
struct StoreSum {
  InputGradientArguments arguments;
  int channel;
  const Vector* added_at(int c, int y, int x) const {
    return arguments.added + (channel - arguments.added_from + c) * P.pitch_out + y * P.columns_out + x;
  }
  Vector* result_at(int c, int y, int x) const {
    return arguments.result + (channel + c) * P.pitch_out + y * P.columns_out + x;
  }
  template <int columns>
  void prefetch(int c, int y, int x) const {
    prefetch_vectors<columns, false>(added_at(c, y, x));
    prefetch_vectors<columns, true>(result_at(c, y, x));
  }
  template <int columns>
  void store_row(int c, int y, int x, const Vector* values) {
    const Vector* added = added_at(c, y, x);
    Vector* output = result_at(c, y, x);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = added[j] + values[j];
  }
};

template <CorrelationPlan P>
struct StoreNormGradient {
  InputGradientArguments arguments;
  int channel;
  const Vector* input_at(int plane, int y, int x) const {
    return arguments.values + plane * P.pitch_out + y * P.columns_out + x;
  }
  Vector* result_at(int plane, int y, int x) const {
    return arguments.result + plane * arguments.pitch + y * (P.columns_out + 2 * arguments.border) + arguments.border + x;
  }
  template <int columns>
  void prefetch(int c, int y, int x) const {
    const int plane = P.stored.output ? c : channel + c;
    prefetch_vectors<columns, false>(input_at(plane, y, x));
    prefetch_vectors<columns, true>(result_at(plane, y, x));
  }
  template <int columns>
  void backward_relu(int c, const Vector* gradient, const Vector* values, Vector* results) {
    const NormGradient norm = arguments.norm;
    const float gradient_scale = norm.gradient_scale[c], value_scale = norm.value_scale[c], offset = norm.offset[c];
    Vector total{};
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) {
      const Vector value = values[j];
      const Vector result = masked(value > 0, gradient_scale * gradient[j] + (value_scale * value + offset));
      results[j] = result;
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
    const Vector* values = input_at(c / 2, y, x);
    Vector* output = result_at(c / 2, y, x);
    Vector halves[2][columns], results[2][columns] = {};
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) halves[0][j] = first_values(values[j]), halves[1][j] = second_values(values[j]);
    backward_relu<columns>(c, first, halves[0], results[0]);
    if (second) backward_relu<columns>(c + 1, second, halves[1], results[1]);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = pack_pair(results[0][j], results[1][j]);
  }
};

// Returns a group's input with its padding.
template <Convolution C>
inline const Vector* padded_input(const Vector* input, Vector* padded) {
  if constexpr (C.padding == 0 || C.stored_padded) return input;
  constexpr size_t pitch = pitch_of((size_t)C.rows * C.columns), width = C.padded_columns();
  for (int i = 0; i < C.group_inputs(); i++, input += pitch) {
    // The zeros behind a row and before the next one lie together.
    Vector* row = padded + i * C.input_pitch();
    for (size_t k = 0; k < C.padding * (width + 1); k++) *row++ = Vector{};
    for (int y = 0; y < C.rows; y++, row += C.columns) {
      if (y)
        for (int k = 0; k < 2 * C.padding; k++) *row++ = Vector{};
      std::memcpy(row, input + (size_t)y * C.columns, C.columns * sizeof(Vector));
    }
    for (size_t k = 0; k < C.padding * (width + 1); k++) *row++ = Vector{};
  }
  return padded;
}

template <Convolution C, bool paired, PairStorage S, template <CorrelationPlan> class Store>
void forward(const ForwardArguments& pass) {
  constexpr CorrelationPlan P{C.group_inputs(), C.padded_rows(), C.padded_columns(), C.group_outputs(), C.rows_out(),
                              C.columns_out(), C.kernel, 0, C.input_pitch(), C.output_pitch(), paired, S, C.stride, 1,
                              C.output_padding};
  for (int g = 0; g < C.groups; g++)
    correlate<P>(padded_input<C>(pass.input + g * C.group_input_vectors(), pass.padded),
                 pass.weights + g * (C.weight_count() / C.groups), pass.scratch, Store<P>{pass, g * P.outputs});
}

// Spreads the columns of a gradient by the stride, with zeros between them and on both sides, where the input's gradient is
// a convolution with stride 1. Its rows stay together: a `CorrelationPlan` skips those that would be zero.
template <Convolution C>
void spread_gradient(int planes, const Vector* gradient, Vector* spread) {
  for (size_t i = 0; i < planes * C.spread_pitch(); i++) spread[i] = Vector{};
  for (int c = 0; c < planes; c++)
    for (int y = 0; y < C.rows_out(); y++) {
      const Vector* from = gradient + c * C.gradient_pitch() + (size_t)y * C.columns_out();
      Vector* to = spread + c * C.spread_pitch() + (size_t)y * C.spread_columns() + C.spread_border();
      for (int x = 0; x < C.columns_out(); x++) to[x * C.stride] = from[x];
    }
}

template <Convolution C, PairStorage S, template <CorrelationPlan> class Store>
void input_gradient(const InputGradientArguments& pass, int begin, int end) {
  constexpr CorrelationPlan P{C.group_outputs(), C.rows_out(), C.spread_columns(), C.group_inputs(), C.rows, C.columns,
                              C.kernel, C.spread_border(), C.spread_pitch(), pitch_of((size_t)C.rows * C.columns),
                              paired(C), {S.output, S.input}, 1, C.stride};
  for (int g = begin; g < end; g++) {
    const Vector* gradient = pass.gradient + (g - begin) * P.channels * C.gradient_pitch();
    if constexpr (C.stride > 1) {
      spread_gradient<C>(S.output ? pair_count(P.channels) : P.channels, gradient, pass.scratch);
      gradient = pass.scratch;
    }
    correlate<P>(gradient, pass.weights + g * (C.weight_count() / C.groups), pass.scratch + C.spread_vectors(),
                 Store<P>{pass, g * P.outputs});
  }
}

// How the weight gradient is divided into tiles of outputs x taps: all taps of an input for a small kernel, rows of taps for a
// larger depthwise one, several inputs for a 1x1 kernel, part of a row of taps for any other. The image is divided into bands
// of rows, so that what a tile reads stays in the level-1 cache for the next tiles. With bfloat16 a band is first packed in
// pairs of columns: the input at every column, because a tap may start at any, and the output's gradient at every second
// column. The columns of a pair of inputs are as far apart as the windows of neighbouring outputs.
template <Convolution C>
struct WeightGradientTiles {
  static constexpr bool pointwise = C.kernel == 1, single = C.group_outputs() == 1;
  static constexpr bool small = !pointwise && (C.kernel <= 3 || single);
  static constexpr int run_length = pointwise ? C.group_inputs() : small ? C.taps() : C.kernel;
  // How many rows of taps a tile has of a small kernel: the compiler keeps their values in registers from column to column.
  static constexpr int tap_rows = C.kernel <= 3 ? C.kernel : greatest(1, (registers - 4) / (2 * C.kernel));
  static constexpr int taps = small ? least(run_length, tap_rows * C.kernel) : least(run_length, registers == 32 ? 6 : 3);
  static constexpr int outputs = greatest(1, least(C.group_outputs(), (registers - 4) / (taps + 1)));
  static constexpr int column_step = (bfloat16 ? 2 : 1) * C.stride;
  static constexpr int row_steps = bfloat16 ? pair_count(C.columns_out()) : C.columns_out();
  static constexpr int gradient_columns = bfloat16 ? row_steps : C.gradient_columns();
  static constexpr int row_bytes =
      (outputs * gradient_columns + (pointwise ? taps : 1) * C.stride * C.padded_columns()) * (int)sizeof(Vector);
  static constexpr int rows = least(C.rows_out(), greatest(1, l1_cache_bytes / row_bytes));
  static constexpr int input_rows = (rows - 1) * C.stride + C.kernel;
  static constexpr size_t input_pitch = bfloat16 ? pitch_of((size_t)input_rows * C.padded_columns()) : C.input_pitch();
  static constexpr size_t gradient_pitch = bfloat16 ? pitch_of((size_t)rows * row_steps) : C.gradient_pitch();
  static constexpr size_t offset(int tap) {
    if (pointwise) return tap * input_pitch;
    return small ? (tap / C.kernel) * C.padded_columns() + tap % C.kernel : tap;
  }
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
    const Vector* row = input + (size_t)y * C.stride * C.padded_columns();
    const Vector* gradient_row = gradient + (size_t)y * T::gradient_columns;
    for (int x = 0; x < T::row_steps; x++) {
      Vector gradients[outputs];
#pragma GCC unroll 32
      for (int c = 0; c < outputs; c++) gradients[c] = gradient_row[c * T::gradient_pitch + x];
#pragma GCC unroll 32
      for (int t = 0; t < taps; t++) {
        Vector value = row[T::offset(first + t) + T::column_step * x];
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
  if constexpr (T::small) return weight_gradient_parts<C, outputs, 0>(input, gradient, rows, sums);
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
      const Vector* run_input = input + r / rows_of_taps * T::input_pitch + (size_t)(r % rows_of_taps) * C.padded_columns();
      const Vector* run_gradient = gradient + c * T::gradient_pitch;
      Vector* run_sums = sums + c * pitch + (size_t)r * T::run_length;
      if (c + T::outputs <= C.group_outputs()) {
        weight_gradient_run<C, T::outputs>(run_input, run_gradient, rows, run_sums);
      } else if constexpr (rest > 0) {
        weight_gradient_run<C, rest>(run_input, run_gradient, rows, run_sums);
      }
    }
}

// Adds to sums[output channel][input][kernel row][kernel column].
template <Convolution C, PairStorage S>
void weight_gradient(const WeightGradientArguments& pass, int begin, int end) {
  using T = WeightGradientTiles<C>;
  for (int g = begin; g < end; g++) {
    const Vector* input = padded_input<C>(pass.input + g * C.group_input_vectors(), pass.padded);
    const Vector* gradient = pass.gradient + (size_t)(g - begin) * C.group_outputs() * C.gradient_pitch();
    for (int y = 0; y < C.rows_out(); y += T::rows) {
      const int rows = least(T::rows, C.rows_out() - y);
      const Vector* band = input + (size_t)y * C.stride * C.padded_columns();
      const Vector* band_gradient = gradient + (size_t)y * C.gradient_columns() + C.border();
      if constexpr (bfloat16) {
        Vector *scratch = pass.scratch, *gradient_pairs = scratch + C.group_inputs() * T::input_pitch;
        constexpr auto pair_input = S.input ? pair_columns_of_pairs<1, C.stride> : pair_columns<1, C.stride>;
        constexpr auto pair_gradient = S.output ? pair_columns_of_pairs<2, 1> : pair_columns<2, 1>;
        pair_input(C.group_inputs(), (rows - 1) * C.stride + C.kernel, C.padded_columns(),
                   {band, C.input_pitch(), C.padded_columns()}, {scratch, T::input_pitch, C.padded_columns()});
        pair_gradient(C.group_outputs(), rows, C.columns_out(), {band_gradient, C.gradient_pitch(), C.gradient_columns()},
                      {gradient_pairs, T::gradient_pitch, T::gradient_columns});
        band = scratch, band_gradient = gradient_pairs;
      }
      weight_gradient_band<C>(band, band_gradient, rows, pass.sums + (size_t)g * (C.weight_count() / C.groups));
    }
  }
}

// `StoreOutput` says what is done with the output, `StoreInputGradient` what is done with the input's gradient.
template <Convolution C, PairStorage S, template <CorrelationPlan> class StoreOutput,
          template <CorrelationPlan> class StoreInputGradient>
constexpr Kernels kernels() {
  return {C,
          scratch_vectors(C),
          paired(C) ? pair_rows : nullptr,
          forward<C, paired(C), S, StoreOutput>,
          forward<C, false, PairStorage{}, StoreOutput>,
          input_gradient<C, S, StoreInputGradient>,
          weight_gradient<C, S>};
}

// The kernels of a convolution whose input needs no gradient.
template <Convolution C, PairStorage S, template <CorrelationPlan> class StoreOutput>
constexpr Kernels kernels() {
  return {C,
          scratch_vectors(C),
          paired(C) ? pair_rows : nullptr,
          forward<C, paired(C), S, StoreOutput>,
          forward<C, false, PairStorage{}, StoreOutput>,
          nullptr,
          weight_gradient<C, S>};
}

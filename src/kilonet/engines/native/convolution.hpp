// Convolution kernels specialised to one layer's shape: forward, gradient of the input, gradient of the weights.
//
// Tensors are [channel][row][column] vectors of images, so every load is aligned and every multiplication is a vector
// by one broadcast weight, whatever the channel count and kernel size. A tile of results stays in registers over the
// whole reduction. With bfloat16 a tensor is first rounded and paired, by channels for a sum over channels and by
// columns for a sum over positions, so that one instruction multiplies and adds both values of a pair. A tensor that no
// other operation reads is kept in pairs of channels, and so is its gradient: half the memory to touch.
#pragma once
#include <algorithm>

#include "pairs.hpp"

struct Convolution {
  int channels_in, channels_out, rows, columns, kernel, padding, groups;
  constexpr int inputs() const { return channels_in / groups; }
  constexpr int outputs() const { return channels_out / groups; }
  constexpr int padded_rows() const { return rows + 2 * padding; }
  constexpr int padded_columns() const { return columns + 2 * padding; }
  constexpr int rows_out() const { return padded_rows() - kernel + 1; }
  constexpr int columns_out() const { return padded_columns() - kernel + 1; }
  // Columns of zeros on each side of the output's gradient, which make the input's gradient a convolution too.
  constexpr int border() const { return kernel - 1 - padding; }
  constexpr int gradient_columns() const { return columns_out() + 2 * border(); }
  constexpr size_t input_pitch() const { return pitch_of((size_t)padded_rows() * padded_columns()); }
  constexpr size_t output_pitch() const { return pitch_of((size_t)rows_out() * columns_out()); }
  constexpr size_t gradient_pitch() const { return pitch_of((size_t)rows_out() * gradient_columns()); }
  constexpr int taps() const { return kernel * kernel; }
  constexpr size_t weights() const { return (size_t)channels_out * inputs() * taps(); }
  // Whether its sums over channels are over pairs.
  constexpr bool paired() const { return bfloat16 && groups == 1 && channels_in > 1 && channels_out > 1; }
  // The most vectors that pairing its operands takes.
  constexpr size_t pair_vectors() const { return channels_in * (input_pitch() + 13) + channels_out * (gradient_pitch() + 13); }
};

// Whether the tensor between two convolutions, the first one's batch norm folded into the second, is kept in pairs.
constexpr bool keeps_pairs(Convolution before, Convolution after) { return before.groups == 1 && after.paired(); }

// Whether a convolution's input and output, and their gradients, are kept in pairs.
struct Storage {
  bool input, output;
};

// One convolution over input rows of `stride` vectors; output row y sees the input rows from y - above on.
struct Pass {
  int channels, rows, stride, outputs, rows_out, columns_out, kernel, above;
  size_t pitch, pitch_out;
  bool paired;    // whether it multiplies pairs
  Storage pairs;  // what is kept in pairs
  constexpr int inputs() const { return paired ? pairs_of(channels) : channels; }
};

struct Tile {
  int channels, columns;
};

// What one step of the reduction costs for a tile: multiplications, loads, or the latency of a chain of additions.
constexpr int tile_cost(int channels, int columns) {
  return channels && columns ? std::max({4 * channels * columns, 4 * (channels + columns), 32}) + channels + columns : 0;
}

// The tile that covers outputs x columns at the least cost without spilling registers; of pairs of channels if `even`.
constexpr Tile best_tile(int outputs, int columns, bool even) {
  Tile best{1, 1};
  long least = -1;
  const int step = even ? 2 : 1;
  for (int c = step; c <= std::min(outputs, 10); c += step)
    for (int x = 1; x <= std::min(columns, 10); x++) {
      if (c * x + x + 1 > registers) continue;
      long cost = (long)(outputs / c) * (columns / x) * tile_cost(c, x) + (outputs / c) * tile_cost(c, columns % x) +
                  (columns / x) * tile_cost(outputs % c, x) + tile_cost(outputs % c, columns % x);
      if (least < 0 || cost < least) least = cost, best = {c, x};
    }
  return best;
}

// Brings what a tile will store to, or read when it does, near while the tile is computed.
template <int columns, bool stores>
inline void fetch_ahead(const Vector* place) {
  for (int j = 0; j < columns; j++) __builtin_prefetch(place + j, stores);
}

// Weights are [input][kernel row][kernel column][output].
template <Pass P, int channels, int columns, class Store>
inline void correlate_tile(const Vector* input, const float* weights, int channel, int y, int x, Store& store) {
  constexpr int step = P.pairs.output ? 2 : 1;
  for (int c = 0; c < channels; c += step) store.template fetch<columns>((channel + c) / step, y, x);
  Vector sums[channels][columns] = {};
  const int first = P.above ? std::max(0, P.above - y) : 0;
  const int last = P.above ? std::min(P.kernel, P.rows + P.above - y) : P.kernel;
  for (int i = 0; i < P.inputs(); i++)
    for (int ky = first; ky < last; ky++) {
      const Vector* row = input + i * P.pitch + (size_t)(y + ky - P.above) * P.stride + x;
      const float* taps = weights + (size_t)(i * P.kernel + ky) * P.kernel * P.outputs + channel;
#pragma GCC unroll 3
      for (int kx = 0; kx < P.kernel; kx++)
#pragma GCC unroll 16
        for (int c = 0; c < channels; c++)
#pragma GCC unroll 16
          for (int j = 0; j < columns; j++)
            sums[c][j] = multiply_add<P.paired>(sums[c][j], taps[kx * P.outputs + c], row[kx + j]);
    }
#pragma GCC unroll 16
  for (int c = 0; c < channels; c += step) {
    if constexpr (P.pairs.output) {
      store.template pair<columns>(channel + c, y, x, sums[c], c + 1 < channels ? sums[c + 1] : nullptr);
    } else {
      store.template row<columns>(channel + c, y, x, sums[c]);
    }
  }
}

template <Pass P, int columns, class Store>
inline void correlate_columns(const Vector* input, const float* weights, int y, int x, Store& store) {
  constexpr int channels = best_tile(P.outputs, P.columns_out, P.pairs.output).channels, rest = P.outputs % channels;
  // What the next columns will read for the first time.
  const Vector* ahead = input + (size_t)std::min(y + P.kernel - 1 - P.above, P.rows - 1) * P.stride + x + columns + P.kernel - 1;
  for (int i = 0; i < P.inputs(); i++)
    for (int j = 0; j < columns; j++) __builtin_prefetch(ahead + i * P.pitch + j);
  for (int c = 0; c + channels <= P.outputs; c += channels)
    correlate_tile<P, channels, columns>(input, weights, c, y, x, store);
  if constexpr (rest > 0) correlate_tile<P, rest, columns>(input, weights, P.outputs - rest, y, x, store);
}

template <Pass P, class Store>
inline void correlate(const Vector* input, const float* weights, Vector* scratch, Store store) {
  if constexpr (P.paired && !P.pairs.input) {
    pair_channels(P.channels, P.pitch, (size_t)P.rows * P.stride, input, scratch);
    input = scratch;
  }
  constexpr int columns = best_tile(P.outputs, P.columns_out, P.pairs.output).columns, rest = P.columns_out % columns;
  for (int y = 0; y < P.rows_out; y++) {
    for (int x = 0; x + columns <= P.columns_out; x += columns)
      correlate_columns<P, columns>(input, weights, y, x, store);
    if constexpr (rest > 0) correlate_columns<P, rest>(input, weights, y, P.columns_out - rest, store);
  }
}

// What a forward pass adds to its sums and where it puts them.
struct Forward {
  const Vector* input;    // padded
  const float* weights;   // [group][input][kernel row][kernel column][output], inputs paired if the pass is
  Vector* scratch;        // for pairs
  const float* bias;      // by output channel
  Vector* output;
  Mask present;           // which lanes hold an image
  const float* centre;    // by output channel: near the mean, so that the sum of squares keeps its precision
  Vector* sums;           // by output channel: sums of the distance from the centre, and of its square
};

template <Pass P>
struct StoreLinear {
  Forward to;
  int channel;
  template <int columns>
  void fetch(int c, int y, int x) const {
    fetch_ahead<columns, true>(to.output + (channel + c) * P.pitch_out + y * P.columns_out + x);
  }
  template <int columns>
  void row(int c, int y, int x, const Vector* values) {
    Vector* output = to.output + (channel + c) * P.pitch_out + y * P.columns_out + x;
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = values[j] + to.bias[channel + c];
  }
};

template <Pass P>
struct StoreRectified {
  Forward to;
  int channel;
  Vector* place(int plane, int y, int x) const { return to.output + plane * P.pitch_out + y * P.columns_out + x; }
  template <int columns>
  void fetch(int c, int y, int x) const {
    fetch_ahead<columns, true>(place(P.pairs.output ? c : channel + c, y, x));
  }
  template <int columns>
  void rectify(int c, const Vector* values, Vector* results) {
    Vector sum{}, square{};
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) {
      // Lanes without an image hold zero, which also stops every gradient there.
      results[j] = only(to.present, rectified(values[j] + to.bias[c]));
      const Vector distance = only(to.present, results[j] - to.centre[c]);
      sum += distance;
      square += distance * distance;
    }
    to.sums[2 * c] += sum;
    to.sums[2 * c + 1] += square;
  }
  template <int columns>
  void row(int c, int y, int x, const Vector* values) {
    rectify<columns>(channel + c, values, place(channel + c, y, x));
  }
  template <int columns>
  void pair(int c, int y, int x, const Vector* first, const Vector* second) {
    Vector results[2][columns] = {};
    rectify<columns>(c, first, results[0]);
    if (second) rectify<columns>(c + 1, second, results[1]);
    Vector* output = place(c / 2, y, x);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = pair_of(results[0][j], results[1][j]);
  }
};

// The gradient before a ReLU from the one behind the batch norm after it, once the sums over the batch are known:
// slope * gradient + incline * value + offset where the ReLU was open, all by channel.
struct NormGradient {
  const float *slope, *incline, *offset;
};

// What the pass to the input's gradient reads and where it puts it.
struct Backward {
  const Vector* gradient;  // of the output, with its border
  const float* weights;    // [group][output][kernel row][kernel column][input], taps reversed, outputs paired if the pass is
  Vector* scratch;         // for pairs
  Vector* result;
  bool add;                // to what is there, for an input that is used twice
  NormGradient norm;       // the rest is for an input with a batch norm before it
  const Vector* values;    // the input
  int border;              // of the result
  size_t pitch;            // of the result
  Vector* totals;          // sums of the result, by channel
};

template <Pass P>
struct StoreGradient {
  Backward to;
  int channel;
  template <int columns>
  void fetch(int c, int y, int x) const {
    fetch_ahead<columns, true>(to.result + (channel + c) * P.pitch_out + y * P.columns_out + x);
  }
  template <int columns>
  void row(int c, int y, int x, const Vector* values) {
    Vector* output = to.result + (channel + c) * P.pitch_out + y * P.columns_out + x;
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = to.add ? output[j] + values[j] : values[j];
  }
};

template <Pass P>
struct StoreNormGradient {
  Backward to;
  int channel;
  const Vector* own(int plane, int y, int x) const { return to.values + plane * P.pitch_out + y * P.columns_out + x; }
  Vector* place(int plane, int y, int x) const {
    return to.result + plane * to.pitch + y * (P.columns_out + 2 * to.border) + to.border + x;
  }
  template <int columns>
  void fetch(int c, int y, int x) const {
    const int plane = P.pairs.output ? c : channel + c;
    fetch_ahead<columns, false>(own(plane, y, x));
    fetch_ahead<columns, true>(place(plane, y, x));
  }
  template <int columns>
  void open(int c, const Vector* gradient, const Vector* values, Vector* results) {
    const float slope = to.norm.slope[c], incline = to.norm.incline[c], offset = to.norm.offset[c];
    Vector total{};
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) {
      const Vector value = values[j];
      const Vector result = only(value > 0, slope * gradient[j] + (incline * value + offset));
      results[j] = result;
      total += result;
    }
    to.totals[c] += total;
  }
  template <int columns>
  void row(int c, int y, int x, const Vector* gradient) {
    open<columns>(channel + c, gradient, own(channel + c, y, x), place(channel + c, y, x));
  }
  template <int columns>
  void pair(int c, int y, int x, const Vector* first, const Vector* second) {
    const Vector* values = own(c / 2, y, x);
    Vector* output = place(c / 2, y, x);
    Vector halves[2][columns], results[2][columns] = {};
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) halves[0][j] = first_of(values[j]), halves[1][j] = second_of(values[j]);
    open<columns>(c, first, halves[0], results[0]);
    if (second) open<columns>(c + 1, second, halves[1], results[1]);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j++) output[j] = pair_of(results[0][j], results[1][j]);
  }
};

template <Convolution C, bool paired, Storage S, template <Pass> class Store>
void forward(const Forward& pass) {
  constexpr Pass P{C.inputs(), C.padded_rows(), C.padded_columns(), C.outputs(), C.rows_out(), C.columns_out(), C.kernel, 0,
                   C.input_pitch(), C.output_pitch(), paired, S};
  for (int g = 0; g < C.groups; g++)
    correlate<P>(pass.input + g * P.channels * P.pitch, pass.weights + g * (C.weights() / C.groups), pass.scratch,
                 Store<P>{pass, g * P.outputs});
}

template <Convolution C, Storage S, template <Pass> class Store>
void input_gradient(const Backward& pass) {
  constexpr Pass P{C.outputs(), C.rows_out(), C.gradient_columns(), C.inputs(), C.rows, C.columns, C.kernel, C.border(),
                   C.gradient_pitch(), pitch_of((size_t)C.rows * C.columns), C.paired(), {S.output, S.input}};
  for (int g = 0; g < C.groups; g++)
    correlate<P>(pass.gradient + g * P.channels * P.pitch, pass.weights + g * (C.weights() / C.groups), pass.scratch,
                 Store<P>{pass, g * P.outputs});
}

// How the gradient of the weights is cut into tiles of outputs x taps: all taps of an input for a small kernel,
// several inputs for a 1x1 kernel, part of a row of taps for a large one. Positions are cut into bands of rows, so that
// what a tile reads stays in the first cache while the next tiles read it again. Where columns are paired, a band is
// paired first, the input at every column, as a tap may begin at any, and the gradient at every other.
template <Convolution C>
struct TapTiles {
  static constexpr bool pointwise = C.kernel == 1, small = C.kernel <= 3 && !pointwise;
  static constexpr int run = pointwise ? C.inputs() : small ? C.taps() : C.kernel;
  static constexpr int taps = small ? run : std::min(run, registers == 32 ? 6 : 3);
  static constexpr int outputs = std::max(1, std::min(C.outputs(), (registers - 4) / (taps + 1)));
  static constexpr int step = bfloat16 ? 2 : 1, positions = bfloat16 ? pairs_of(C.columns_out()) : C.columns_out();
  static constexpr int gradient_columns = bfloat16 ? positions : C.gradient_columns();
  static constexpr int row_bytes =
      (outputs * gradient_columns + (pointwise ? taps : 1) * C.padded_columns()) * (int)sizeof(Vector);
  static constexpr int rows = std::min(C.rows_out(), std::max(1, first_cache / row_bytes));
  static constexpr int input_rows = rows + C.kernel - 1;
  static constexpr size_t input_pitch = bfloat16 ? pitch_of((size_t)input_rows * C.padded_columns()) : C.input_pitch();
  static constexpr size_t gradient_pitch = bfloat16 ? pitch_of((size_t)rows * positions) : C.gradient_pitch();
  static constexpr size_t offset(int tap) {
    if (pointwise) return tap * input_pitch;
    return small ? (tap / C.kernel) * C.padded_columns() + tap % C.kernel : tap;
  }
};

// Adds to sums[output][tap] of `outputs` channels and `taps` taps, which lie `pitch` and one vectors apart.
template <Convolution C, int outputs, int taps>
inline void weight_gradient_tile(const Vector* input, const Vector* gradient, int rows, Vector* sums) {
  using T = TapTiles<C>;
  constexpr size_t pitch = (size_t)C.inputs() * C.taps();
  Vector tile[outputs][taps];
#pragma GCC unroll 16
  for (int c = 0; c < outputs; c++)
#pragma GCC unroll 16
    for (int t = 0; t < taps; t++) tile[c][t] = sums[c * pitch + t];
  for (int y = 0; y < rows; y++) {
    const Vector* row = input + (size_t)y * C.padded_columns();
    const Vector* gradient_row = gradient + (size_t)y * T::gradient_columns;
    for (int x = 0; x < T::positions; x++) {
      Vector down[outputs];
#pragma GCC unroll 16
      for (int c = 0; c < outputs; c++) down[c] = gradient_row[c * T::gradient_pitch + x];
#pragma GCC unroll 16
      for (int t = 0; t < taps; t++) {
        Vector value = row[T::offset(t) + T::step * x];
#pragma GCC unroll 16
        for (int c = 0; c < outputs; c++) tile[c][t] = multiply_add<bfloat16>(tile[c][t], down[c], value);
      }
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < outputs; c++)
#pragma GCC unroll 16
    for (int t = 0; t < taps; t++) sums[c * pitch + t] = tile[c][t];
}

template <Convolution C, int outputs>
inline void weight_gradient_run(const Vector* input, const Vector* gradient, int rows, Vector* sums) {
  using T = TapTiles<C>;
  constexpr int rest = T::run % T::taps;
  for (int t = 0; t + T::taps <= T::run; t += T::taps)
    weight_gradient_tile<C, outputs, T::taps>(input + T::offset(t), gradient, rows, sums + t);
  if constexpr (rest > 0)
    weight_gradient_tile<C, outputs, rest>(input + T::offset(T::run - rest), gradient, rows, sums + T::run - rest);
}

template <Convolution C>
inline void weight_gradient_band(const Vector* input, const Vector* gradient, int rows, Vector* sums) {
  using T = TapTiles<C>;
  constexpr size_t pitch = (size_t)C.inputs() * C.taps();
  constexpr int rows_of_taps = T::pointwise || T::small ? 1 : C.kernel, runs = T::pointwise ? 1 : C.inputs() * rows_of_taps;
  constexpr int rest = C.outputs() % T::outputs;
  for (int c = 0; c < C.outputs(); c += T::outputs)
    for (int r = 0; r < runs; r++) {
      const Vector* from = input + r / rows_of_taps * T::input_pitch + (size_t)(r % rows_of_taps) * C.padded_columns();
      const Vector* down = gradient + c * T::gradient_pitch;
      Vector* to = sums + c * pitch + (size_t)r * T::run;
      if (c + T::outputs <= C.outputs()) {
        weight_gradient_run<C, T::outputs>(from, down, rows, to);
      } else if constexpr (rest > 0) {
        weight_gradient_run<C, rest>(from, down, rows, to);
      }
    }
}

// Adds to sums[output channel][input][kernel row][kernel column]; `gradient` has its border.
template <Convolution C, Storage S>
void weight_gradient(const Vector* input, const Vector* gradient, Vector* scratch, Vector* sums) {
  using T = TapTiles<C>;
  for (int g = 0; g < C.groups; g++)
    for (int y = 0; y < C.rows_out(); y += T::rows) {
      const int rows = std::min(T::rows, C.rows_out() - y);
      const Vector* from = input + g * C.inputs() * C.input_pitch() + (size_t)y * C.padded_columns();
      const Vector* down =
          gradient + g * C.outputs() * C.gradient_pitch() + (size_t)y * C.gradient_columns() + C.border();
      if constexpr (bfloat16) {
        Vector* down_pairs = scratch + C.inputs() * T::input_pitch;
        constexpr auto pair_input = S.input ? pair_columns_of_pairs<1> : pair_columns<1>;
        constexpr auto pair_gradient = S.output ? pair_columns_of_pairs<2> : pair_columns<2>;
        pair_input(C.inputs(), rows + C.kernel - 1, C.padded_columns(), {from, C.input_pitch(), C.padded_columns()},
                   {scratch, T::input_pitch, C.padded_columns()});
        pair_gradient(C.outputs(), rows, C.columns_out(), {down, C.gradient_pitch(), C.gradient_columns()},
                      {down_pairs, T::gradient_pitch, T::gradient_columns});
        from = scratch, down = down_pairs;
      }
      weight_gradient_band<C>(from, down, rows, sums + (size_t)g * (C.weights() / C.groups));
    }
}

// The kernels of one layer, behind pointers that hide its shape.
struct Kernels {
  Convolution shape;
  void (*forward)(const Forward&);
  void (*exact_forward)(const Forward&);  // of float32 values, never of pairs
  void (*input_gradient)(const Backward&);
  void (*weight_gradient)(const Vector* input, const Vector* gradient, Vector* scratch, Vector* sums);
};

// `To` says what follows the convolution, `Back` what the input's gradient becomes.
template <Convolution C, Storage S, template <Pass> class To, template <Pass> class Back>
constexpr Kernels kernels() {
  return {C, forward<C, C.paired(), S, To>, forward<C, false, Storage{}, To>, input_gradient<C, S, Back>, weight_gradient<C, S>};
}

// For a layer whose input needs no gradient.
template <Convolution C, Storage S, template <Pass> class To>
constexpr Kernels kernels() {
  return {C, forward<C, C.paired(), S, To>, forward<C, false, Storage{}, To>, nullptr, weight_gradient<C, S>};
}

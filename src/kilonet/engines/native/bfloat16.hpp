// bfloat16 values, which are the upper 16 bits of float32 ones. They are stored as halves, one value for each image, or as
// pairs: two values are packed for an instruction that multiplies both values of a pair and adds the two products in float32.
// A pair fills the 32 bits of one float32 value; its first value is in the lower half.
#pragma once
#include "vectors.hpp"

// One bfloat16 value for each image.
typedef uint16_t Halves __attribute__((vector_size(lanes * 2)));

constexpr int pair_count(int count) { return (count + 1) / 2; }

#ifdef __AVX512BF16__
// Of the general form below GCC 12 makes eight instructions instead of one.
inline Words as_words(Halves values) { return (Words)_mm512_cvtepu16_epi32((__m256i)values); }

// Packs two values of each image, given as all first ones and then all second ones.
inline Vector interleaved(__m512i halves) {
  typedef short Places __attribute__((vector_size(64)));
  const Places order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (Vector)_mm512_permutexvar_epi16((__m512i)order, halves);
}
#else
inline Words as_words(Halves values) { return __builtin_convertvector(values, Words); }
#endif

// Packs two values of each image that are rounded already.
inline Vector pair_of(Halves first, Halves second) { return (Vector)(as_words(first) | as_words(second) << 16); }

// Returns the second value of a pair and the first one of the next.
inline Vector joined(Vector pairs, Vector next) {
#if defined(__AVX512BF16__) && defined(__AVX512VBMI2__)
  return (Vector)_mm512_shrdi_epi32((__m512i)pairs, (__m512i)next, 16);
#else
  return (Vector)((Words)pairs >> 16 | (Words)next << 16);
#endif
}

inline Vector first_values(Vector pairs) { return (Vector)((Words)pairs << 16); }

inline Vector second_values(Vector pairs) { return (Vector)((Words)pairs & 0xffff0000); }

#ifdef __AVX512BF16__
inline Halves rounded(Vector values) { return (Halves)_mm512_cvtneps_pbh((__m512)values); }

inline Vector pack_pair(Vector first, Vector second) {
  return interleaved((__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}

inline Vector add_products(Vector sum, Vector factors, Vector values) {
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)factors, (__m512bh)values);
}
#else
// Rounds the upper half of each word to nearest, ties to even; the lower half of the result is not zero. Keeps NaN.
inline Words round_to_bfloat16(Vector values) {
  const Words words = (Words)values;
  return values == values ? words + 0x7fff + (words >> 16 & 1) : words | 0x400000;
}

inline Halves rounded(Vector values) { return __builtin_convertvector(round_to_bfloat16(values) >> 16, Halves); }

inline Vector pack_pair(Vector first, Vector second) {
  return (Vector)(round_to_bfloat16(first) >> 16 | (round_to_bfloat16(second) & 0xffff0000));
}

inline Vector add_products(Vector sum, Vector factors, Vector values) {
  return sum + first_values(factors) * first_values(values) + second_values(factors) * second_values(values);
}
#endif

// The values of an element of a tensor, which is stored as float32 values or as halves.
inline Vector loaded(const Vector* element) { return *element; }
inline Vector loaded(const Halves* element) { return (Vector)(as_words(*element) << 16); }
inline void put(Vector* element, Vector values) { *element = values; }
inline void put(Halves* element, Vector values) { *element = rounded(values); }

// Multiplies all lanes by the same pair of weights.
inline Vector add_products(Vector sum, float weights, Vector values) {
  return add_products(sum, broadcast(weights), values);
}

// Returns sum + factor * values, for float32 values or for pairs.
template <bool paired, class Factor>
inline Vector multiply_add(Vector sum, Factor factor, Vector values) {
  if constexpr (paired) return add_products(sum, factor, values);
  return sum + factor * values;
}

inline Vector pack_elements(const Vector* first, const Vector* second) {
  return pack_pair(*first, second ? *second : Vector{});
}
inline Vector pack_elements(const Halves* first, const Halves* second) {
#ifdef __AVX512BF16__
  if (second == first + 1) return interleaved(_mm512_loadu_si512(first));
#endif
  return pair_of(*first, second ? *second : Halves{});
}

// Packs channels 2p and 2p + 1 into channel p of the output; an odd last channel is paired with zeros.
template <class Element>
inline void pair_channels(int channels, size_t pitch, size_t plane, const Element* input, Vector* output) {
  for (int c = 0; c < channels; c += 2, input += 2 * pitch, output += pitch) {
    const Element* second = c + 1 < channels ? input + pitch : nullptr;
    for (size_t i = 0; i < plane; i++) output[i] = pack_elements(input + i, second ? second + i : nullptr);
  }
}

// A tensor whose rows are `columns` elements apart and whose channels are `pitch` elements apart.
template <class Element>
struct Planes {
  Element* begin;
  size_t pitch;
  int columns;
};

// Pairs every `step`-th column with the one `distance` to its right, and those without one with zeros.
template <int step, int distance, class Element>
inline void pair_columns(int channels, int rows, int columns, Planes<const Element> from, Planes<Vector> to) {
  for (int c = 0; c < channels; c++)
    for (int y = 0; y < rows; y++) {
      const Element* row = from.begin + c * from.pitch + (size_t)y * from.columns;
      Vector* pairs = to.begin + c * to.pitch + (size_t)y * to.columns;
      int x = 0;
      for (; x + distance < columns; x += step) pairs[x / step] = pack_elements(row + x, row + x + distance);
      for (; x < columns; x += step) pairs[x / step] = pack_elements(row + x, (const Element*)nullptr);
    }
}

// Does the same as `pair_columns` for a tensor that is stored in pairs of channels.
template <int step, int distance>
inline void pair_columns_of_pairs(int channels, int rows, int columns, Planes<const Vector> from, Planes<Vector> to) {
  for (int c = 0; c < channels; c += 2)
    for (int y = 0; y < rows; y++) {
      const Words* row = (const Words*)(from.begin + c / 2 * from.pitch + (size_t)y * from.columns);
      Words* first = (Words*)(to.begin + c * to.pitch + (size_t)y * to.columns);
      Words* second = c + 1 < channels ? first + to.pitch : first;
      const auto regroup = [&](int x, Words own, Words right) {
        second[x / step] = own >> 16 | (right & 0xffff0000);
        first[x / step] = (own & 0xffff) | right << 16;
      };
      int x = 0;
      for (; x + distance < columns; x += step) regroup(x, row[x], row[x + distance]);
      for (; x < columns; x += step) regroup(x, row[x], Words{});
    }
}

// Packs rows 2p and 2p + 1 of `length` weights into row p, in place.
inline void pair_rows(int rows, size_t length, float* weights) {
  for (int r = 0; r < rows; r += 2)
    for (size_t at = 0; at < length; at += lanes) {
      const size_t bytes = least<size_t>(lanes, length - at) * sizeof(float);
      Vector first{}, second{};
      std::memcpy(&first, weights + r * length + at, bytes);
      if (r + 1 < rows) std::memcpy(&second, weights + (r + 1) * length + at, bytes);
      const Vector both = pack_pair(first, second);
      std::memcpy(weights + r / 2 * length + at, &both, bytes);
    }
}

// SIMD vectors with one image a lane: each value of a tensor is held for `lanes` images side by side.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int lanes = 16, registers = 32;
#elif defined(__AVX__)
constexpr int lanes = 8, registers = 16;
#elif defined(__aarch64__)
constexpr int lanes = 4, registers = 32;
#else
constexpr int lanes = 4, registers = 16;
#endif

// Bytes of the level-1 data cache that a kernel may count on.
constexpr int l1_cache_bytes = 32768;

// For what is compiled again for each network: to read <algorithm> takes the compiler a tenth of a second.
template <class Number>
constexpr Number least(Number first, Number second) {
  return second < first ? second : first;
}

template <class Number>
constexpr Number greatest(Number first, Number second) {
  return first < second ? second : first;
}

typedef float Vector __attribute__((vector_size(lanes * 4)));
typedef int32_t Mask __attribute__((vector_size(lanes * 4)));
typedef uint32_t Words __attribute__((vector_size(lanes * 4)));

// The distance in vectors from one channel to the next. Planes that are a multiple of a page apart would compete for the
// same few sets of the level-1 cache, so large planes get a few vectors of padding.
constexpr size_t pitch_of(size_t plane) { return plane < 64 ? plane : plane + (13 - plane % 8) % 8; }

inline Vector broadcast(float value) { return value - Vector{}; }

// The values where the mask is set and zero elsewhere.
inline Vector masked(Mask mask, Vector values) { return (Vector)((Mask)values & mask); }

// Keeps NaN, so that a run that diverges shows it in its loss.
inline Vector relu(Vector values) {
#ifdef __AVX512BF16__
  return (Vector)_mm512_max_ps(__m512{}, (__m512)values);  // the second one if one is NaN
#else
  return values < 0 ? Vector{} : values;
#endif
}

template <int count>
inline float sum_of(const float* values) {
  if constexpr (count <= 4) {
    return (values[0] + values[1]) + (values[2] + values[3]);
  } else {
    typedef float Half __attribute__((vector_size(count * 2)));
    Half low, high;
    std::memcpy(&low, values, sizeof low);
    std::memcpy(&high, values + count / 2, sizeof high);
    low += high;
    return sum_of<count / 2>((const float*)&low);
  }
}

inline float sum_of_lanes(Vector values) { return sum_of<lanes>((const float*)&values); }

// Vectors whose lanes are images: every value of the network is held for `lanes` images side by side.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int lanes = 16, registers = 32;
#elif defined(__AVX__)
constexpr int lanes = 8, registers = 16;
#elif defined(__aarch64__)
constexpr int lanes = 4, registers = 32;
#else
constexpr int lanes = 4, registers = 16;
#endif

// Bytes of the first cache that a kernel may count on.
constexpr int first_cache = 32768;

typedef float Vector __attribute__((vector_size(lanes * 4)));
typedef int32_t Mask __attribute__((vector_size(lanes * 4)));
typedef uint32_t Words __attribute__((vector_size(lanes * 4)));

// Vectors from one channel to the next. Planes a multiple of a page apart would all fight for the same few places of
// the first cache, so larger ones are moved apart.
constexpr size_t pitch_of(size_t plane) { return plane < 64 ? plane : plane + (13 - plane % 8) % 8; }

inline Vector all(float value) { return value - Vector{}; }

// The values where the mask is set and zero elsewhere.
inline Vector only(Mask mask, Vector values) { return (Vector)((Mask)values & mask); }

// A NaN stays one, so that a run that diverges is seen in its loss.
inline Vector rectified(Vector values) { return values < 0 ? Vector{} : values; }

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

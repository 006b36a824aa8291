// Measures the processor's peak: independent multiply-adds on registers, one set of chains a thread. Prints GFLOP/s, in
// float32 or, after the word bfloat16, of the instruction that multiplies two pairs of bfloat16 and adds both products to a
// float32 value.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes)));

constexpr int kChains = 12;  // enough to hide the latency of a multiply-add on two ports
constexpr long kRounds = 20'000'000;

template <class Step>
static float spin(Step step) {
  Vector chain[kChains];
  for (int c = 0; c < kChains; ++c) chain[c] = Vector{} + static_cast<float>(c);
  for (long round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chain[c] = step(chain[c]);
  }
  Vector total{};
  for (const Vector& one : chain) total += one;
  return total[0];
}

static float spin_float32() {
  const Vector factor = Vector{} + 0.999F, summand = Vector{} + 1e-3F;
  return spin([=](Vector value) { return value * factor + summand; });
}

static float spin_bfloat16() {
#ifdef __AVX512BF16__
  const Vector factor = Vector{} + 0.999F, other = Vector{} + 1e-3F;
  return spin([=](Vector value) { return (Vector)_mm512_dpbf16_ps((__m512)value, (__m512bh)factor, (__m512bh)other); });
#else
  std::fprintf(stderr, "this processor does not multiply bfloat16\n");
  std::exit(1);
#endif
}

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  const bool bfloat16 = count > 2 && !std::strcmp(arguments[2], "bfloat16");
  std::vector<float> sinks(static_cast<size_t>(threads));
  std::vector<std::thread> pool;
  const auto start = std::chrono::steady_clock::now();
  const auto spin_once = bfloat16 ? spin_bfloat16 : spin_float32;
  for (int t = 0; t < threads; ++t) pool.emplace_back([&, t] { sinks[static_cast<size_t>(t)] = spin_once(); });
  for (std::thread& thread : pool) thread.join();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%.1f\n", (bfloat16 ? 4.0 : 2.0) * kLanes * kChains * kRounds * threads / seconds / 1e9);
  return *std::max_element(sinks.begin(), sinks.end()) > 1e30F;
}

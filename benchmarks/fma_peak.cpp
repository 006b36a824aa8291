// Measures the processor's float32 peak: independent multiply-adds on registers, one set of chains a thread. Prints GFLOP/s.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes)));

constexpr int kChains = 12;  // enough to hide the latency of a multiply-add on two ports
constexpr long kRounds = 20'000'000;

static float spin() {
  Vector chain[kChains];
  for (int c = 0; c < kChains; ++c) chain[c] = Vector{} + static_cast<float>(c);
  Vector factor = Vector{} + 0.999F, summand = Vector{} + 1e-3F;
  for (long round = 0; round < kRounds; ++round) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * factor + summand;
  }
  Vector total{};
  for (const Vector& one : chain) total += one;
  return total[0];
}

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  std::vector<float> sinks(static_cast<size_t>(threads));
  std::vector<std::thread> pool;
  const auto start = std::chrono::steady_clock::now();
  for (int t = 0; t < threads; ++t) pool.emplace_back([&sinks, t] { sinks[static_cast<size_t>(t)] = spin(); });
  for (std::thread& thread : pool) thread.join();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%.1f\n", 2.0 * kLanes * kChains * kRounds * threads / seconds / 1e9);
  return *std::max_element(sinks.begin(), sinks.end()) > 1e30F;
}

// Times every convolution's three passes over a batch, as a training step runs them: groups of images shared out to
// threads, tensors too large for the caches. Prints a line a pass: layer, pass, operations an image, median microseconds.
// Built by kernel_speed.py with the generated network.cpp.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "trainer.cpp"

#include "network.cpp"

struct Place {
  Array<Vector> input, output, gradient, result, scratch, sums, totals;
};

static void fill(Array<Vector>& values, size_t count) {
  for (size_t i = 0; i < count; i++)
    for (int l = 0; l < lanes; l++) values[i][l] = (float)((i * lanes + l) * 2654435761u % 1000) / 1000 - 0.5f;
}

static Place place_for(const Convolution& c) {
  const size_t inputs = c.channels_in * (c.input_pitch() + 13), outputs = c.channels_out * (c.gradient_pitch() + 13);
  // The gradient of a folded input has a border that no pass here needs: room for it is enough.
  const size_t results = c.channels_in * pitch_of((size_t)c.rows * (c.columns + 2 * c.kernel));
  Place place{zeros<Vector>(inputs), zeros<Vector>(outputs),          zeros<Vector>(outputs),   zeros<Vector>(results),
              zeros<Vector>(c.pair_vectors()), zeros<Vector>(c.weights()), zeros<Vector>(2 * (c.channels_in + c.channels_out))};
  fill(place.input, inputs);
  fill(place.gradient, outputs);
  return place;
}

template <class Pass>
static double median_microseconds(Threads& threads, int groups, Pass pass) {
  constexpr int rounds = 41;
  double microseconds[rounds];
  for (double& one : microseconds) {
    const auto start = std::chrono::steady_clock::now();
    threads.share(groups, [&](int group, int) { pass(group); });
    one = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  }
  std::sort(microseconds, microseconds + rounds);
  return microseconds[rounds / 2];
}

static void time_layer(int layer, const Operation& operation, Threads& threads, int groups) {
  const Kernels& kernels = operation.kernels;
  const Convolution& c = kernels.shape;
  std::vector<Place> places;
  for (int g = 0; g < groups; g++) places.push_back(place_for(c));
  std::vector<float> weights(c.weights() + lanes, 0.01f), channels(c.channels_in + c.channels_out, 0.5f);
  const double flops = 2.0 * c.weights() * c.rows_out() * c.columns_out();
  const auto report = [&](const char* pass, double microseconds) {
    std::printf("%d %s %.0f %.2f\n", layer, pass, flops, microseconds);
  };
  report("forward", median_microseconds(threads, groups, [&](int g) {
    Place& p = places[g];
    kernels.forward({p.input.get(), weights.data(), p.scratch.get(), channels.data(), p.output.get(), Mask{} == 0, channels.data(),
                     p.totals.get()});
  }));
  if (kernels.input_gradient)
    report("input", median_microseconds(threads, groups, [&](int g) {
      Place& p = places[g];
      Backward pass{p.gradient.get(), weights.data(), p.scratch.get(), p.result.get(), false};
      const int border = operation.folded < 0 ? 0 : c.kernel - 1;
      pass.norm = {channels.data(), channels.data(), channels.data()};
      pass.values = p.input.get();
      pass.border = border;
      pass.pitch = pitch_of((size_t)c.rows * (c.columns + 2 * border));
      pass.totals = p.totals.get();
      kernels.input_gradient(pass);
    }));
  report("weights", median_microseconds(threads, groups, [&](int g) {
    Place& p = places[g];
    kernels.weight_gradient(p.input.get(), p.gradient.get(), p.scratch.get(), p.sums.get());
  }));
}

int main(int count, char** words) {
  const int images = std::atoi(words[1]), wanted = std::atoi(words[2]);
  Threads threads(wanted);
  int layer = 0;
  for (int o = 0; o < network.operation_count; o++)
    if (network.operations[o].kind == Kind::convolution)
      time_layer(layer++, network.operations[o], threads, images / lanes);
}

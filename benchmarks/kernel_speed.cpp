// Times the three passes of every convolution over a batch, as a training step runs them: groups of images are divided
// among threads, and tensors are too large for the caches. Prints one line a pass: layer, pass, operations an image, median
// microseconds.
// Built by kernel_speed.py with the generated network.cpp.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "trainer.cpp"

#include "network.cpp"

struct Buffers {
  Array<Vector> input, padded, output, gradient, result, scratch, sums, channel_sums;
};

static void fill(Array<Vector>& values, size_t count) {
  for (size_t i = 0; i < count; i++)
    for (int l = 0; l < lanes; l++) values[i][l] = (float)((i * lanes + l) * 2654435761u % 1000) / 1000 - 0.5f;
}

static Buffers make_buffers(const Kernels& kernels) {
  const Convolution& c = kernels.shape;
  const size_t inputs = c.channels_in * (c.input_pitch() + 13), gradients = c.channels_out * (c.gradient_pitch() + 13);
  const size_t outputs = c.channels_out * (c.output_pitch() + 13);
  // The gradient of an input with a folded norm has a border, which needs room here but no values.
  const size_t results = c.channels_in * pitch_of((size_t)c.rows * (c.columns + 2 * c.kernel));
  Buffers buffers{zeros<Vector>(inputs),
                  zeros<Vector>(c.padded_vectors()),
                  zeros<Vector>(outputs),
                  zeros<Vector>(gradients),
                  zeros<Vector>(results),
                  zeros<Vector>(kernels.scratch_vectors),
                  zeros<Vector>(c.weight_count()),
                  zeros<Vector>(2 * (c.channels_in + c.channels_out))};
  fill(buffers.input, inputs);
  fill(buffers.gradient, gradients);
  return buffers;
}

template <class Pass>
static double median_microseconds(ThreadPool& threads, int groups, Pass pass) {
  constexpr int rounds = 41;
  double microseconds[rounds];
  for (double& one : microseconds) {
    const auto start = std::chrono::steady_clock::now();
    threads.parallel_for(groups, [&](int group, int) { pass(group); });
    one = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  }
  std::sort(microseconds, microseconds + rounds);
  return microseconds[rounds / 2];
}

static void time_layer(int layer, const Operation& operation, ThreadPool& threads, int groups) {
  const Kernels& kernels = operation.kernels;
  const Convolution& c = kernels.shape;
  std::vector<Buffers> buffers;
  for (int g = 0; g < groups; g++) buffers.push_back(make_buffers(kernels));
  std::vector<float> weights(c.weight_count() + lanes, 0.01f), channels(c.channels_in + c.channels_out, 0.5f);
  const double flops = 2.0 * c.weight_count() * c.rows_out() * c.columns_out();
  const auto report = [&](const char* pass, double microseconds) {
    std::printf("%d %s %.0f %.2f\n", layer, pass, flops, microseconds);
  };
  report("forward", median_microseconds(threads, groups, [&](int g) {
    Buffers& p = buffers[g];
    kernels.forward({p.input.get(), p.padded.get(), weights.data(), p.scratch.get(), channels.data(), p.output.get(), Mask{} == 0,
                     channels.data(), p.channel_sums.get()});
  }));
  if (kernels.input_gradient)
    report("input", median_microseconds(threads, groups, [&](int g) {
      Buffers& p = buffers[g];
      InputGradientArguments pass{p.gradient.get(), weights.data(), p.scratch.get(), p.result.get(), p.result.get()};
      const int border = operation.folded_norm < 0 ? 0 : c.kernel - 1;
      pass.norm = {channels.data(), channels.data(), channels.data()};
      pass.values = p.input.get();
      pass.border = border;
      pass.pitch = pitch_of((size_t)c.rows * (c.columns + 2 * border));
      pass.channel_sums = p.channel_sums.get();
      kernels.input_gradient(pass, 0, c.groups);
    }));
  report("weights", median_microseconds(threads, groups, [&](int g) {
    Buffers& p = buffers[g];
    kernels.weight_gradient({p.input.get(), p.padded.get(), p.gradient.get(), p.scratch.get(), p.sums.get()}, 0, c.groups);
  }));
}

int main(int, char** arguments) {
  const int images = std::atoi(arguments[1]);
  ThreadPool threads(std::atoi(arguments[2]));
  int layer = 0;
  for (int o = 0; o < network.operation_count; o++)
    if (network.operations[o].kind == Kind::convolution)
      time_layer(layer++, network.operations[o], threads, images / lanes);
}
